//! TOML of strangers.

use serde::de::DeserializeOwned;
use toml_parser::{Source, lexer::TokenKind};

/// Most levels of nested values, and most parts of a key, as in `a.b.c`, each of which is a
/// table in another one. The parser limits neither, and too many overflow the stack.
const MAX_DEPTH: usize = 32;

/// Parses a TOML document; the reason of an error names the line.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    match is_deep(text) {
        true => Err(format!("its values are nested more than {MAX_DEPTH} deep")),
        false => toml::from_str(text).map_err(|error| error.to_string()),
    }
}

fn is_deep(text: &str) -> bool {
    let (mut dots, mut open) = (0, Vec::new());
    Source::new(text).lex().any(|token| {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Newline | TokenKind::Comma | TokenKind::Equals => dots = 0,
            TokenKind::LeftSquareBracket => open.push(TokenKind::RightSquareBracket),
            TokenKind::LeftCurlyBracket => open.push(TokenKind::RightCurlyBracket),
            // Any other closing bracket is an error, after which the parser goes on.
            kind if open.last() == Some(&kind) => drop(open.pop()),
            _ => {}
        }
        dots >= MAX_DEPTH || open.len() > MAX_DEPTH
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_nest_only_so_deep() {
        let long = "a.".repeat(50_000);
        let quoted = "\"a,\n\".'='.".replace('\n', " ").repeat(50_000);
        for text in [
            format!("{long}b = 1"),
            format!("[{long}b]"),
            format!("x = {{ {long}b = 1 }}"),
            format!("{quoted}b = 1"),
            format!("x = {}", "[".repeat(50_000)),
            format!("x = {}", "{y=[".repeat(50_000)),
            format!("x = {}", "{]".repeat(50_000)),
        ] {
            let reason = parse_toml::<toml::Table>(&text).unwrap_err();
            assert!(reason.contains("32 deep"), "{reason}");
        }
        let floats = format!(
            "x = [{}[[[1]]], {{ a.b.c = [] }}]\ny = '{}' # {}",
            "1.0, ".repeat(100),
            ".".repeat(99),
            long
        );
        assert_eq!(parse_toml::<toml::Table>(&floats).unwrap().len(), 2);
        assert!(
            parse_toml::<toml::Table>("x = 1\ny = ?")
                .unwrap_err()
                .contains("line 2")
        );
    }
}
