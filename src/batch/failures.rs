//! The list of what failed: itself a manifest.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Part,
    job::{ERROR, Job, LINE},
    ledger::{append, files},
};
use crate::{
    error::{Error, Result},
    io::{Existing, resolved, write_file},
};

/// The stem of the lists.
const FAILED: &str = "failed";

/// The list of a part of a batch: its failed jobs, with `line` and `error`.
///
/// A failure is appended when it is found, and at the end the list is written anew in the
/// order of lines, or removed if nothing failed. A list that is the manifest of the run stays
/// as it is up to the end, so that a killed run loses nothing.
#[derive(Debug)]
pub struct Failures {
    path: PathBuf,
    /// The list while the batch runs, unless it is the manifest.
    file: Option<File>,
    failed: Vec<(usize, String)>,
}

impl Failures {
    /// The list of a part, empty; `manifest` is what is run.
    pub fn begin(folder: &Path, part: Part, manifest: &Path) -> Result<Self> {
        let path = Self::list(folder, part);
        let is_manifest = resolved(&path) == resolved(manifest);
        let file = if is_manifest {
            None
        } else {
            remove(&path)?;
            let mut options = OpenOptions::new();
            let file = options.append(true).create_new(true).open(&path);
            Some(file.map_err(|error| Error::io(&path, error))?)
        };
        Ok(Self {
            path,
            file,
            failed: Vec::new(),
        })
    }

    /// Adds a job that failed, or what stands in its place, from a line.
    pub fn add(&mut self, line: usize, job: &Job, reason: &str) -> Result<()> {
        let mut kept = job.clone();
        kept.insert(LINE.into(), line.into());
        kept.insert(ERROR.into(), reason.into());
        let text = Value::Object(kept).to_string();
        if let Some(file) = &mut self.file {
            append(file, &text).map_err(|error| Error::io(&self.path, error))?;
        }
        self.failed.push((line, text));
        Ok(())
    }

    /// The number of failures.
    pub fn count(&self) -> usize {
        self.failed.len()
    }

    /// The file of the list.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the list as a whole, or removes it if it is empty.
    pub fn finish(mut self) -> Result<()> {
        self.file = None;
        self.failed.sort_by_key(|(line, _)| *line);
        let lines = self.failed.iter().map(|(_, text)| format!("{text}\n"));
        match self.failed.is_empty() {
            true => remove(&self.path),
            false => write_file(
                &self.path,
                lines.collect::<String>().as_bytes(),
                Existing::Replace,
            ),
        }
    }

    /// The file of the list of a part.
    pub fn list(folder: &Path, part: Part) -> PathBuf {
        part.file(folder, FAILED)
    }

    /// The bytes of all lists of a folder.
    pub fn all(folder: &Path) -> Result<Vec<Vec<u8>>> {
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let read = |file: PathBuf| fs::read(&file).map_err(|error| Error::io(&file, error));
        files(folder, FAILED)?.into_iter().map(read).collect()
    }
}

/// Removes a file, if there is one.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::batch::entries;

    fn job(image: &str) -> Job {
        Job::from_iter([("image".to_owned(), json!(image))])
    }

    #[test]
    fn the_list_is_a_manifest_in_the_order_of_lines() {
        let home = tempfile::tempdir().unwrap();
        let manifest = home.path().join("jobs.jsonl");
        let mut failures = Failures::begin(home.path(), Part::Whole, &manifest).unwrap();
        failures.add(7, &job("b.png"), "a reason").unwrap();
        failures.add(2, &job("a.png"), "another").unwrap();
        let file = home.path().join("failed.jsonl");
        let live = fs::read_to_string(&file).unwrap();
        assert_eq!(live.lines().count(), 2, "known while the batch runs");
        assert_eq!(failures.count(), 2);
        failures.finish().unwrap();
        let text = fs::read(&file).unwrap();
        let found = entries(&file, &text).unwrap().into_iter();
        let jobs: Vec<_> = found.map(|entry| entry.content.unwrap()).collect();
        assert_eq!(jobs, [job("a.png"), job("b.png")]);
        assert_eq!(Failures::all(home.path()).unwrap(), [text]);
    }

    #[test]
    fn a_list_that_is_run_again_is_kept_up_to_the_end() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("failed.jsonl");
        fs::write(&file, "{\"image\": \"a.png\"}\n").unwrap();
        let mut failures = Failures::begin(home.path(), Part::Whole, &file).unwrap();
        failures.add(1, &job("a.png"), "again").unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "{\"image\": \"a.png\"}\n"
        );
        failures.finish().unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("again"));
        let failures = Failures::begin(home.path(), Part::Whole, &file).unwrap();
        failures.finish().unwrap();
        assert!(!file.exists());
    }
}
