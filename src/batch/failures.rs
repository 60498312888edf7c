//! The list of what failed: itself a manifest.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Kind, Part, Storage,
    job::{ERROR, Job, LINE},
    ledger::{append, files},
    storage::new_file,
};
use crate::{
    error::{Error, Result},
    io::{Existing, resolved},
};

/// The stem of the lists.
pub(super) const FAILED: &str = "failed";

/// How often a list that is an object is written anew, at most.
const PAUSE: Duration = Duration::from_secs(10);

/// The list of a part of a batch: its failed jobs, with `line` and `error`.
///
/// A failure is appended when it is found, and at the end the list is written anew in the
/// order of lines, or removed if nothing failed. A list that is the manifest of the run stays
/// as it is up to the end, so that a killed run loses nothing. One that is an object is written
/// anew now and then: the failures that a killed run loses are found again.
pub struct Failures {
    storage: &'static dyn Storage,
    path: PathBuf,
    live: Live,
    failed: Vec<(usize, String)>,
}

/// The list while the batch runs.
enum Live {
    /// It is the manifest.
    Kept,
    Appended(File),
    Rewritten(Instant),
}

impl Failures {
    /// The list of a part, empty; `manifest` is what is run.
    pub fn begin(
        storage: &'static dyn Storage,
        folder: &Path,
        part: Part,
        manifest: &Path,
    ) -> Result<Self> {
        let path = Self::list(folder, part);
        let live = if resolved(&path) == resolved(manifest) {
            Live::Kept
        } else if storage.kind() == Kind::Objects {
            Live::Rewritten(Instant::now())
        } else {
            storage.remove(&path)?;
            Live::Appended(new_file(&path)?)
        };
        Ok(Self {
            storage,
            path,
            live,
            failed: Vec::new(),
        })
    }

    /// Adds a job that failed, or what stands in its place, from a line.
    pub fn add(&mut self, line: usize, job: &Job, reason: &str) -> Result<()> {
        let mut kept = job.clone();
        kept.insert(LINE.into(), line.into());
        kept.insert(ERROR.into(), reason.into());
        let text = Value::Object(kept).to_string();
        if let Live::Appended(file) = &mut self.live {
            append(file, &text).map_err(|error| Error::io(&self.path, error))?;
        }
        self.failed.push((line, text));
        if let Live::Rewritten(last) = &mut self.live
            && last.elapsed() >= PAUSE
        {
            *last = Instant::now();
            self.write()?;
        }
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
        self.live = Live::Kept;
        self.failed.sort_by_key(|(line, _)| *line);
        match self.failed.is_empty() {
            true => self.storage.remove(&self.path),
            false => self.write(),
        }
    }

    fn write(&self) -> Result<()> {
        let lines = self.failed.iter().map(|(_, text)| format!("{text}\n"));
        let text = lines.collect::<String>();
        self.storage
            .write(&self.path, text.as_bytes(), None, Existing::Replace)
    }

    /// The file of the list of a part.
    pub fn list(folder: &Path, part: Part) -> PathBuf {
        part.file(folder, FAILED)
    }

    /// The bytes of all lists of a folder.
    pub fn all(storage: &dyn Storage, folder: &Path) -> Result<Vec<Vec<u8>>> {
        let files = files(storage, folder, FAILED)?.into_iter();
        files.map(|file| storage.read(&file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::batch::{Disk, entries};

    fn job(image: &str) -> Job {
        Job::from_iter([("image".to_owned(), json!(image))])
    }

    #[test]
    fn the_list_is_a_manifest_in_the_order_of_lines() {
        let home = tempfile::tempdir().unwrap();
        let manifest = home.path().join("jobs.jsonl");
        let mut failures = Failures::begin(&Disk, home.path(), Part::Whole, &manifest).unwrap();
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
        assert_eq!(Failures::all(&Disk, home.path()).unwrap(), [text]);
    }

    #[test]
    fn a_list_that_is_run_again_is_kept_up_to_the_end() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("failed.jsonl");
        fs::write(&file, "{\"image\": \"a.png\"}\n").unwrap();
        let mut failures = Failures::begin(&Disk, home.path(), Part::Whole, &file).unwrap();
        failures.add(1, &job("a.png"), "again").unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "{\"image\": \"a.png\"}\n"
        );
        failures.finish().unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("again"));
        let failures = Failures::begin(&Disk, home.path(), Part::Whole, &file).unwrap();
        failures.finish().unwrap();
        assert!(!file.exists());
    }
}
