//! Lists of prompts.

use std::path::Path;

use anyhow::Result;
use icd::{Error, io::Source};

/// Columns of prompts, the first that a CSV has.
const COLUMNS: [&str; 2] = ["caption", "prompt"];

/// The prompts of a file: of a CSV by column, else a line each.
pub(super) fn read(file: &Path) -> Result<Vec<String>> {
    let text = Source::from(file).text()?;
    let ending = file.extension().unwrap_or_default().to_ascii_lowercase();
    let prompts = match ending == "csv" {
        true => of_csv(&text).map_err(|reason| Error::config(file, reason))?,
        false => text.lines().map(|line| line.trim().to_owned()).collect(),
    };
    let prompts: Vec<_> = prompts
        .into_iter()
        .filter(|prompt| !prompt.is_empty())
        .collect();
    match prompts.is_empty() {
        true => Err(Error::config(file, "it has no prompts").into()),
        false => Ok(prompts),
    }
}

fn of_csv(text: &str) -> Result<Vec<String>, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().map_err(|error| error.to_string())?;
    let find = |name: &&str| head.iter().position(|column| column == *name);
    let column = COLUMNS.iter().find_map(find);
    let column = column.ok_or_else(|| format!("it has no column {}", COLUMNS.join(" or ")))?;
    let one = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record.map_err(|error| error.to_string())?;
        Ok(record.get(column).unwrap_or_default().trim().to_owned())
    };
    reader.records().map(one).collect()
}
