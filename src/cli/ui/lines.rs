//! Lines on stdout and stderr, which may quote what a stranger wrote.

use std::io::{ErrorKind, Write, stderr, stdout};

use anyhow::{Context, Result};
use clap::builder::Styles;
use icd::error::abridged;
use serde_json::{Value, json};

/// Most bytes of a message and of one of its lines: it may quote what a stranger wrote.
const MAX_MESSAGE: usize = 4096;
const MAX_LINE: usize = 350;
/// Most bytes of a stranger's text in a line.
const MAX_FOREIGN: usize = 1000;

/// Writes a message to stderr.
pub(crate) fn log_line(message: &str) {
    // A closed stderr is not an error.
    let _ = writeln!(stderr(), "{}", harmless(&short(message)));
}

/// A message of which each line can be read, and none floods a terminal.
pub(crate) fn short(message: &str) -> String {
    let message = abridged(message, MAX_MESSAGE);
    let lines: Vec<_> = message
        .lines()
        .map(|line| abridged(line, MAX_LINE))
        .collect();
    lines.join("\n")
}

/// Writes the JSON object of a failure to stderr, on one line.
pub(crate) fn log_failure(message: &str, code: u8) {
    let object = json!({ "error": { "message": short(message), "code": code } });
    let _ = writeln!(stderr(), "{}", harmless(&object.to_string()));
}

/// Writes an error to stderr, with a label in the colour of clap's.
pub(crate) fn log_error(message: &str) {
    let style = Styles::styled();
    let style = style.get_error();
    let message = harmless(&short(message));
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {message}");
}

/// Writes a line, of text or JSON, to stdout.
pub(crate) fn print_line(line: &str) -> Result<()> {
    print_bytes(format!("{}\n", harmless(line)).as_bytes())
}

/// A text that a terminal does not obey: control characters and those that change the
/// direction of writing are escaped, as in JSON.
pub(crate) fn harmless(text: &str) -> String {
    let directs = |char| matches!(char, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let one = |char: char| match char {
        '\n' | '\t' => char.to_string(),
        _ if char.is_control() || directs(char) => format!("\\u{:04x}", u32::from(char)),
        _ => char.to_string(),
    };
    text.chars().map(one).collect()
}

/// A stranger's text, such as a licence or the name of a file, as a part of a line: cut,
/// harmless and without line breaks, which could forge lines.
pub(crate) fn foreign(text: &str) -> String {
    one_line(&abridged(text, MAX_FOREIGN))
}

fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Writes a result to stdout: the facts as a JSON object, or else its text.
pub(crate) fn print_result(as_json: bool, facts: &Value, text: String) -> Result<()> {
    print_line(&if as_json { facts.to_string() } else { text })
}

/// Writes a fact to stdout.
pub(crate) fn print_fact(name: &str, value: &Value) -> Result<()> {
    match value {
        Value::String(text) => print_line(&format!("{}: {}", one_line(name), one_line(text))),
        other => print_line(&format!("{}: {other}", one_line(name))),
    }
}

/// Writes bytes to stdout. A closed pipe is not an error.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to stdout")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_message_is_long() {
        let message = format!("a {}: it is missing\nsee --help", "x".repeat(3000));
        let told = short(&message);
        assert!(told.lines().all(|line| line.len() < 400), "{told}");
        assert!(told.starts_with("a xxx") && told.contains("it is missing\n"));
        assert!(told.ends_with("see --help"));
        assert_eq!(short("a bird\na dog"), "a bird\na dog");
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        let text = "a\u{1b}]0;title\u{7}\u{9b}2J\u{202e}b\tc\nd é 猫";
        let printed = "a\\u001b]0;title\\u0007\\u009b2J\\u202eb\tc\nd é 猫";
        assert_eq!(harmless(text), printed);
        assert_eq!(foreign("mit\nkind: x\u{1b}"), "mit\\nkind: x\\u001b");
        let line = json!({ "text": text }).to_string();
        assert!(!harmless(&line).contains(char::is_control));
        let read: Value = serde_json::from_str(&harmless(&line)).unwrap();
        assert_eq!(read["text"], text);
    }
}
