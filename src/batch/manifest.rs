//! Manifests: JSON lines, or CSV with a header.

use std::{
    fmt,
    io::{self, BufRead, Read},
    path::Path,
};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    csv,
    job::{ERROR, Entry, Fault, Job, LINE, TEXT},
};
use crate::error::{Error, Result};

/// Most bytes of a line.
pub const MAX_LINE: usize = 1 << 20;

/// The byte order mark that some editors write.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Names of files of JSON lines, and of CSV.
const JSON: [&str; 4] = ["jsonl", "ndjson", "jsonlines", "json"];
const CSV: [&str; 2] = ["csv", "tsv"];

/// The entries of a manifest with these bytes. The ending of its name tells its format, else
/// its first character: `{` or `[` of JSON lines, any other of CSV.
///
/// Lines that are no jobs are faults of their own; an error is what spoils the whole, as a
/// header of CSV that names no keys.
pub fn entries(name: &Path, bytes: &[u8]) -> Result<Vec<Entry>> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
        return Err(Error::config(name, "it is UTF-16: save the file as UTF-8"));
    }
    let ending = name.extension().unwrap_or_default().to_ascii_lowercase();
    let is_json = JSON.iter().any(|known| ending == *known);
    let is_csv = CSV.iter().any(|known| ending == *known);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if is_json || !is_csv && matches!(first, Some(b'{' | b'[') | None) {
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        return Ok(lines
            .filter_map(|(index, line)| json_entry(index + 1, line))
            .collect());
    }
    csv::entries(bytes).map_err(|reason| Error::config(name, reason))
}

/// The entry of a line of JSON; `None` for an empty one.
///
/// `line` and `error`, which a list of failures adds, are passed over, and so are keys whose
/// value is null. A line with `text` alone is what that text says.
pub fn json_entry(line: usize, bytes: &[u8]) -> Option<Entry> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii();
    let content = (!bytes.is_empty()).then(|| job(bytes))?;
    Some(Entry {
        line,
        content: content.and_then(|job| match job.get(TEXT) {
            Some(Value::String(text)) if job.len() == 1 => self::job(text.trim().as_bytes()),
            _ => Ok(job),
        }),
    })
}

fn job(bytes: &[u8]) -> Result<Job, Fault> {
    let fault = |reason: String| Fault::of_line(bytes, reason);
    if bytes.len() > MAX_LINE {
        return Err(fault(format!("a line of more than {MAX_LINE} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        fault(format!("byte {} of the line is not UTF-8", at + 1))
    })?;
    if !text.starts_with('{') {
        return Err(fault(NO_OBJECT.into()));
    }
    let keys: Keys = serde_json::from_str(text).map_err(|error| fault(told(&error)))?;
    let mut job = keys.0;
    let is_alone = job
        .keys()
        .all(|key| [TEXT, LINE, ERROR].contains(&&key[..]));
    job.retain(|key, value| match &key[..] {
        LINE | ERROR => false,
        TEXT => is_alone && value.is_string(),
        _ => !value.is_null(),
    });
    Ok(job)
}

const NO_OBJECT: &str = "not a job: write a JSON object on one line, as in {\"image\": \"in.png\", \
                         \"src_prompt\": \"a bird\", \"tgt_prompt\": \"a lego bird\"}";

/// What serde says, with the column alone: the text is one line.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (reason, _) = text.split_once(" at line ").unwrap_or((&text, ""));
    match error.is_data() {
        true => reason.to_owned(),
        false => format!("not JSON: {reason} at column {}", error.column()),
    }
}

/// An object none of whose keys is given twice.
struct Keys(Job);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfKeys)
    }
}

struct OfKeys;

impl<'de> Visitor<'de> for OfKeys {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Job::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if keys.contains_key(&key) {
                let reason = format!("the key {key:?} is given twice");
                return Err(serde::de::Error::custom(reason));
            }
            keys.insert(key, value);
        }
        Ok(Keys(keys))
    }
}

/// Reads the next line into `line`, without keeping more of a too long one than is needed to
/// refuse it. `false` at the end of the input.
pub fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let most = MAX_LINE as u64 + 2;
    if input.by_ref().take(most).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    let is_cut = line.len() as u64 == most && line.last() != Some(&b'\n');
    if is_cut {
        pass_over_line(input)?;
    }
    Ok(true)
}

fn pass_over_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let (taken, ends) = match end {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(taken);
        if ends {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str, text: &[u8]) -> Vec<(usize, Result<Value, String>)> {
        let found = entries(Path::new(name), text).unwrap().into_iter();
        let one = |entry: Entry| {
            let content = entry.content.map(Value::Object);
            (entry.line, content.map_err(|fault| fault.reason))
        };
        found.map(one).collect()
    }

    #[test]
    fn jobs_keep_their_types_and_the_numbers_of_their_lines() {
        let text = b"\xef\xbb\xbf{\"image\": \"a.png\", \"tau\": 0.7, \"mask\": null}\r\n\n  \n\
                     {\"tgt_prompt\": [\"x\", \"y\"], \"model_size\": true, \"error\": \"e\", \"line\": 9}";
        let first = json!({ "image": "a.png", "tau": 0.7 });
        let second = json!({ "tgt_prompt": ["x", "y"], "model_size": true });
        assert_eq!(of("j", text), [(1, Ok(first)), (4, Ok(second))]);
    }

    #[test]
    fn lines_that_are_no_jobs_are_told_and_stop_nothing() {
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_LINE));
        let lines: [(&[u8], &str); 8] = [
            (
                b"{\"image\": ",
                "not JSON: EOF while parsing a value at column",
            ),
            (b"[1, 2]", "not a job"),
            (b"\"text\"", "not a job"),
            (b"image,tau", "not a job"),
            (b"{\"a\": \"\xe9\"}", "byte 8 of the line is not UTF-8"),
            (b"{\"a\": 1, \"a\": 2}", "the key \"a\" is given twice"),
            (long.as_bytes(), "more than 1048576 bytes"),
            (b"{\"a\": 1} {\"b\": 2}", "not JSON: trailing characters"),
        ];
        let text = lines.map(|(line, _)| line).join(&b"\n"[..]);
        let found = of("jobs.jsonl", &text);
        assert_eq!(found.len(), lines.len());
        for ((line, content), (_, reason)) in found.into_iter().zip(lines) {
            let told = content.unwrap_err();
            assert!(told.contains(reason), "line {line}: {told}");
        }
    }

    #[test]
    fn a_kept_text_is_read_again_once_it_is_mended() {
        let broken = json_entry(3, b"{\"image\": ").unwrap().content.unwrap_err();
        let mut kept = broken.kept;
        kept.insert("line".into(), json!(3));
        kept.insert("error".into(), broken.reason.into());
        let again = json_entry(1, json!(kept).to_string().as_bytes()).unwrap();
        assert_eq!(again.content.unwrap_err().kept["text"], "{\"image\":");
        let mended = json!({ "line": 3, "text": "{\"image\": \"a.png\"}", "error": "x" });
        let mended = json_entry(1, mended.to_string().as_bytes()).unwrap();
        assert_eq!(
            Value::Object(mended.content.unwrap()),
            json!({ "image": "a.png" })
        );
    }

    #[test]
    fn a_long_line_is_passed_over_up_to_its_end() {
        let mut text = vec![b'x'; 3 * MAX_LINE];
        text.extend_from_slice(b"\nnext\n\nlast");
        let (mut input, mut line) = (io::BufReader::new(&text[..]), Vec::new());
        let mut lengths = Vec::new();
        while read_line(&mut input, &mut line).unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [MAX_LINE + 2, 5, 1, 4]);
    }

    #[test]
    fn what_is_no_manifest_is_an_error() {
        for bytes in [
            &b"\xff\xfea\0"[..],
            b"\x89PNG\r\n\x1a\n....",
            b"no keys here\n1\n",
        ] {
            assert!(entries(Path::new("jobs"), bytes).is_err(), "{bytes:?}");
        }
        assert!(of("jobs", b"").is_empty());
    }
}
