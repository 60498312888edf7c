//! Text and files inside HTML.

use base64::{Engine, engine::general_purpose::STANDARD};

/// A text as HTML, in an element or a quoted attribute: nothing in it is markup, and no
/// character of it hides or turns others.
pub(super) fn escaped(text: &str) -> String {
    let directs = |char| matches!(char, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let one = |char: char| match char {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        '"' => "&quot;".into(),
        '\'' => "&#39;".into(),
        '\n' | '\t' => " ".into(),
        _ if char.is_control() || directs(char) => "\u{fffd}".into(),
        _ => char.to_string(),
    };
    text.chars().map(one).collect::<String>()
}

/// A file as an address.
pub(super) fn data_uri(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", STANDARD.encode(bytes))
}

/// A template with each `{{name}}` replaced once: what is put in is not looked at again.
pub(super) fn filled(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("}}") {
            Some((name, rest)) => {
                text += &value(name);
                text += rest;
            }
            None => text += part,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup_or_a_template() {
        assert_eq!(
            escaped("<script>\"a\" & 'b'\u{202e}\u{1b}\n"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;\u{fffd}\u{fffd} "
        );
        let text = filled("<{{a}}>{{b}}</>", |name| match name {
            "a" => "{{b}}".into(),
            _ => "x".into(),
        });
        assert_eq!(text, "<{{b}}>x</>");
    }
}
