//! Manifests of CSV: a header of keys, then a job in each record.
//!
//! Cells are texts, and an empty one is not given. A cell that holds a JSON array is the list
//! of a setting that can be repeated. The header tells the separator: a comma, a semicolon as
//! some spreadsheets write, or a tab.

use std::ops::Range;

use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::Value;

use super::job::{Entry, Fault, Job};
use crate::error::abridged;

/// Separators, the usual one first.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// The entries of a file; an error if its header does not name keys.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let begin = bytes.iter().position(|byte| !b"\r\n".contains(byte));
    let begin = begin.unwrap_or(bytes.len());
    let end = bytes[begin..].iter().position(|byte| *byte == b'\n');
    let header = &bytes[begin..end.map_or(bytes.len(), |end| begin + end)];
    let found = SEPARATORS.iter().find(|byte| header.contains(byte));
    let table = Table {
        bytes,
        separator: *found.unwrap_or(&SEPARATORS[0]),
        keys: Vec::new(),
    };
    let mut rows = table.rows(begin);
    let Some(first) = rows.next() else {
        return Ok(Vec::new());
    };
    let keys = keys(&first.cells)?;
    let end = first.at.end;
    Ok(Table { keys, ..table }.entries(end))
}

/// The keys of a header.
fn keys(cells: &ByteRecord) -> Result<Vec<String>, String> {
    let mut keys: Vec<String> = Vec::new();
    for cell in cells {
        let key = String::from_utf8_lossy(cell).trim().to_owned();
        let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !key.chars().all(is_key) {
            return Err(format!(
                "the first line of CSV names the keys of the jobs, as in \
                 image,src_prompt,tgt_prompt: {:?} is none",
                abridged(&key, 100)
            ));
        }
        if !key.is_empty() && keys.contains(&key) {
            return Err(format!("its header names {key:?} twice"));
        }
        keys.push(key);
    }
    match keys.iter().all(String::is_empty) {
        true => Err("its header names no keys".into()),
        false => Ok(keys),
    }
}

/// A file, and what its header says.
struct Table<'a> {
    bytes: &'a [u8],
    separator: u8,
    keys: Vec<String>,
}

/// A record, and where it stands.
struct Row {
    cells: ByteRecord,
    at: Range<usize>,
}

impl<'a> Table<'a> {
    /// The records from a byte on.
    fn rows(&self, begin: usize) -> impl Iterator<Item = Row> + use<'a> {
        let bytes = self.bytes;
        let mut reader: Reader<&[u8]> = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.separator)
            .from_reader(&bytes[begin..]);
        std::iter::from_fn(move || {
            let (start, mut cells) = (reader.position().byte() as usize, ByteRecord::new());
            // Bytes in memory are always read.
            let is_read = reader.read_byte_record(&mut cells).unwrap_or(false);
            let end = begin + reader.position().byte() as usize;
            let rest = &bytes[begin + start..end];
            let blank = rest.iter().take_while(|byte| b"\r\n".contains(byte));
            let start = begin + start + blank.count();
            is_read.then_some(Row {
                cells,
                at: start..end,
            })
        })
    }

    /// The entries of the records from a byte on. A quote that is not closed, or closed within a
    /// cell, spoils its own line: what follows is read from the next one.
    fn entries(&self, mut begin: usize) -> Vec<Entry> {
        let (mut entries, mut lines) = (Vec::new(), Lines::new(self.bytes));
        loop {
            let mut next = None;
            for row in self.rows(begin) {
                let line = lines.number(row.at.start);
                let own = &self.bytes[row.at.clone()];
                if !is_well_quoted(own, self.separator) {
                    let end = own.iter().position(|byte| *byte == b'\n');
                    let end = end.map_or(own.len(), |end| end + 1);
                    let content = Err(Fault::of_line(&own[..end], QUOTES));
                    entries.push(Entry { line, content });
                    next = Some(row.at.start + end);
                    break;
                }
                if !is_blank(&row.cells) {
                    let content = self.job(&row.cells, own);
                    entries.push(Entry { line, content });
                }
            }
            match next {
                Some(next) => begin = next,
                None => return entries,
            }
        }
    }

    fn job(&self, cells: &ByteRecord, own: &[u8]) -> Result<Job, Fault> {
        let (found, wanted) = (cells.len(), self.keys.len());
        let extra = cells.iter().skip(wanted);
        if found < wanted || extra.into_iter().any(|cell| !cell.trim_ascii().is_empty()) {
            let reason = format!("{found} cells, but the header has {wanted}");
            return Err(Fault::of_line(own, reason));
        }
        let mut job = Job::new();
        for (key, cell) in self.keys.iter().zip(cells) {
            if cell.trim_ascii().is_empty() {
                continue;
            }
            let cell = std::str::from_utf8(cell)
                .map_err(|_| Fault::of_line(own, format!("the cell {key:?} is not UTF-8")))?;
            if key.is_empty() {
                return Err(Fault::of_line(
                    own,
                    format!("the header has no key for {cell:?}"),
                ));
            }
            job.insert(key.clone(), value(cell));
        }
        Ok(job)
    }
}

/// A cell: a list if it is a JSON array.
fn value(cell: &str) -> Value {
    let list = cell.trim_start().starts_with('[');
    let list = list.then(|| serde_json::from_str(cell).ok()).flatten();
    list.unwrap_or_else(|| cell.into())
}

const QUOTES: &str = "a quoted cell ends at its quote: write \"\" for one inside";

/// Whether each cell of a record that begins with a quote ends with its own.
fn is_well_quoted(mut own: &[u8], separator: u8) -> bool {
    let ends = |byte: &u8| [separator, b'\r', b'\n'].contains(byte);
    loop {
        if own.first() == Some(&b'"') {
            match quoted(own) {
                Some(length) if own.get(length).is_none_or(ends) => own = &own[length..],
                _ => return false,
            }
        }
        let end = own.iter().position(ends);
        match end.filter(|end| own[*end] == separator) {
            Some(end) => own = &own[end + 1..],
            None => return true,
        }
    }
}

/// The length of a quoted cell, its quotes included, if it has an end.
fn quoted(own: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += own.get(at..)?.iter().position(|byte| *byte == b'"')? + 1;
        match own.get(at) {
            Some(b'"') => at += 1,
            _ => return Some(at),
        }
    }
}

fn is_blank(cells: &ByteRecord) -> bool {
    cells.iter().all(|cell| cell.trim_ascii().is_empty())
}

/// The numbers of lines, asked for from the first to the last.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            number: 1,
        }
    }

    fn number(&mut self, at: usize) -> usize {
        let passed = &self.bytes[self.at..at];
        self.number += passed.split(|byte| *byte == b'\n').count() - 1;
        self.at = at;
        self.number
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &[u8]) -> Vec<(usize, Result<Value, String>)> {
        let one = |entry: Entry| {
            let content = entry.content.map(Value::Object);
            (entry.line, content.map_err(|fault| fault.reason))
        };
        entries(text).unwrap().into_iter().map(one).collect()
    }

    #[test]
    fn cells_are_texts_lists_or_not_given() {
        let text = b"image,src_prompt,tgt_prompt,tau\r\n\
                     a.png,\"a \"\"red\"\" bird, sitting\nstill\",\"[\"\"x\"\", \"\"y\"\"]\",0.7\r\n\
                     \r\n\
                     b.png,,[not a list],\r\n,,,\r\nc.png,p,q,1,,\n";
        assert_eq!(
            of(text),
            [
                (
                    2,
                    Ok(
                        json!({ "image": "a.png", "src_prompt": "a \"red\" bird, sitting\nstill",
                               "tgt_prompt": ["x", "y"], "tau": "0.7" })
                    )
                ),
                (
                    5,
                    Ok(json!({ "image": "b.png", "tgt_prompt": "[not a list]" }))
                ),
                (
                    7,
                    Ok(
                        json!({ "image": "c.png", "src_prompt": "p", "tgt_prompt": "q", "tau": "1" })
                    )
                ),
            ]
        );
    }

    #[test]
    fn other_separators_are_those_of_the_header() {
        let job = json!({ "image": "a, b.png", "tau": "1" });
        for text in ["image;tau\na, b.png;1", "\nimage\ttau\na, b.png\t1\n"] {
            assert_eq!(of(text.as_bytes())[0].1, Ok(job.clone()));
        }
    }

    #[test]
    fn broken_records_spoil_no_others() {
        let text = b"image,tau\na.png\nb.png,1,2\nc\xe9.png,1\n\"d.png,1\ne.png,1\n5\" f.png,1\n";
        let found = of(text);
        let told = |line: usize| {
            let found = found.iter().find(|found| found.0 == line);
            found.unwrap().1.clone().unwrap_err()
        };
        assert_eq!(told(2), "1 cells, but the header has 2");
        assert_eq!(told(3), "3 cells, but the header has 2");
        assert_eq!(told(4), "the cell \"image\" is not UTF-8");
        assert!(told(5).starts_with("a quoted cell ends"), "{}", told(5));
        assert_eq!(found[4], (6, Ok(json!({ "image": "e.png", "tau": "1" }))));
        assert_eq!(
            found[5],
            (7, Ok(json!({ "image": "5\" f.png", "tau": "1" })))
        );
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn an_open_quote_spoils_its_own_line() {
        let found = of(b"image,tau\n\"a.png\"x,1\nb.png,\"1\nc.png,\"\"\"1\"\nd.png,1");
        let faults: Vec<_> = found
            .iter()
            .map(|(line, job)| (*line, job.is_err()))
            .collect();
        assert_eq!(faults, [(2, true), (3, true), (4, false), (5, false)]);
        assert_eq!(found[2].1, Ok(json!({ "image": "c.png", "tau": "\"1" })));
    }

    #[test]
    fn a_header_names_each_key_once() {
        for header in ["a.png,a bird\n", "image,image\n", ",,\n", "Image,TAU\n"] {
            assert!(entries(header.as_bytes()).is_err(), "{header}");
        }
        assert!(of(b"image,tau\n").is_empty() && of(b"\n\n").is_empty());
    }
}
