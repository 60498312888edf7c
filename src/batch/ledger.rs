//! The ledger of a folder of results: a line of JSON for each file, with hashes of what it was
//! made of and of its content.
//!
//! A line is written before its file gets its name: a file whose content has the hash of a
//! line is finished, however the process ended that wrote it. Each part of a batch has a
//! ledger of its own, so that no two processes write one file; all are read.
//!
//! Objects cannot be appended to, and need no ledger: each carries its record.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Kind, Shard, Storage, failures::FAILED};
use crate::{
    error::{Error, Result},
    io::{Existing, hold_writing},
};

/// The stem of ledgers, and their ending.
const LEDGER: &str = "ledger";
const ENDING: &str = ".jsonl";

/// The part of a batch that a process works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All jobs.
    Whole,
    /// Those of a shard.
    Shard(Shard),
    /// Those that another program sends, counted from 1.
    Worker(usize),
}

impl Part {
    /// The file of this part with this stem: `failed.jsonl`, `failed-1-of-4.jsonl` or
    /// `failed-worker-1.jsonl`.
    pub fn file(self, folder: &Path, stem: &str) -> PathBuf {
        let part = match self {
            Self::Whole => String::new(),
            Self::Shard(shard) => format!("-{}", shard.to_string().replace('/', "-of-")),
            Self::Worker(number) => format!("-worker-{number}"),
        };
        folder.join(format!("{stem}{part}{ENDING}"))
    }
}

/// The files of a folder that parts with this stem wrote, in the order of their names.
pub(crate) fn files(storage: &dyn Storage, folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let is_part = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let part = name
            .strip_prefix(stem)
            .and_then(|rest| rest.strip_suffix(ENDING));
        part.is_some_and(|part| part.is_empty() || part.starts_with('-'))
    };
    let files = storage.files(folder)?.into_iter();
    Ok(files.filter(is_part).collect())
}

/// What is known of a file that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its path below the folder of results, with `/` between names.
    pub output: String,
    /// A hash of the job as it was given.
    pub job: String,
    /// A hash of the settings that took effect.
    pub settings: String,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// How long it took to make, in seconds; 0 if it was found.
    pub seconds: f64,
    /// How often a network was evaluated for it and what was made with it; 0 if it was found.
    #[serde(default)]
    pub evaluations: usize,
}

impl Record {
    /// The hash of content.
    pub fn digest(content: &[u8]) -> String {
        format!("{:x}", Sha256::digest(content))
    }
}

/// The records of all ledgers of a folder.
#[derive(Clone, Debug, Default)]
pub struct Records(HashMap<String, Vec<Record>>);

impl Records {
    /// Reads all ledgers of a folder. Lines that are no records, as the last one of a process
    /// that was killed, are passed over.
    pub fn read(storage: &dyn Storage, folder: &Path) -> Result<Self> {
        let mut records = Self::default();
        if storage.kind() == Kind::Objects {
            return Ok(records);
        }
        for file in files(storage, folder, LEDGER)? {
            for line in storage.read(&file)?.split(|byte| *byte == b'\n') {
                if let Ok(record) = serde_json::from_slice(line) {
                    records.add(record);
                }
            }
        }
        Ok(records)
    }

    /// What is known of the file of this name.
    pub fn of(&self, output: &str) -> &[Record] {
        self.0.get(output).map_or(&[], Vec::as_slice)
    }

    /// The mean seconds and bytes of a file, of those that took time; `None` without any.
    pub fn mean(&self) -> Option<(f64, f64)> {
        let made = self.0.values().flatten().filter(|one| one.seconds > 0.0);
        let sums = made.fold((0.0, 0.0, 0.0), |(count, seconds, bytes), one| {
            (count + 1.0, seconds + one.seconds, bytes + one.bytes as f64)
        });
        let (count, seconds, bytes) = sums;
        (count > 0.0).then(|| (seconds / count, bytes / count))
    }

    /// The mean evaluations for a file, of those that took any; `None` without any.
    pub fn mean_evaluations(&self) -> Option<f64> {
        let all = self.0.values().flatten().map(|one| one.evaluations);
        let made: Vec<_> = all.filter(|count| *count > 0).collect();
        let sum = made.iter().sum::<usize>() as f64;
        (!made.is_empty()).then(|| sum / made.len() as f64)
    }

    /// Adds what is known of a file now.
    pub fn add(&mut self, record: Record) {
        let known = self.0.entry(record.output.clone()).or_default();
        // The last of equal ones is enough, however often a job was forced.
        known.retain(|one| one.settings != record.settings);
        known.push(record);
    }
}

/// The ledger of a part, locked while it is open.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger of a part, which is created if need be; `None` where results are
    /// objects. Another process that works on the same part is an error.
    pub fn open(storage: &dyn Storage, folder: &Path, part: Part) -> Result<Option<Self>> {
        match storage.kind() {
            Kind::Files => Self::of_part(folder, part).map(Some),
            Kind::Objects => Ok(None),
        }
    }

    fn of_part(folder: &Path, part: Part) -> Result<Self> {
        let path = part.file(folder, LEDGER);
        let fault = |error| Error::io(&path, error);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path);
        let file = file
            .as_mut()
            .map_err(|error| fault(io::Error::new(error.kind(), error.to_string())))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let reason = "another icd batch works on this part: give each process its --shard";
            return Err(Error::setting(format!("{}: {reason}", path.display())));
        }
        let ledger = Self {
            file: file.try_clone().map_err(fault)?,
            path: path.clone(),
        };
        end_line(&ledger.file).map_err(fault)?;
        Ok(ledger)
    }

    /// The first ledger of a worker that no other process has open; where results are objects,
    /// the first worker of whom there is no list of failures.
    pub fn of_worker(storage: &dyn Storage, folder: &Path) -> Result<(Option<Self>, Part)> {
        let mut last = None;
        for number in 1..=MAX_WORKERS {
            let part = Part::Worker(number);
            let own = match storage.kind() {
                Kind::Files => Self::of_part(folder, part).map(Some),
                Kind::Objects => {
                    let failed = part.file(folder, FAILED);
                    let taken = storage.write(&failed, b"", None, Existing::Keep);
                    taken.map(|()| None)
                }
            };
            match own {
                Err(error @ Error::Setting { .. }) => last = Some(error),
                Err(Error::Io { reason, .. }) if reason.kind() == ErrorKind::AlreadyExists => {}
                own => return own.map(|ledger| (ledger, part)),
            }
        }
        Err(last.unwrap_or_else(|| Error::setting("too many workers")))
    }

    /// Adds a record, before its file gets its name.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let fault = |error| Error::io(&self.path, error);
        let line = serde_json::to_string(record).map_err(|error| fault(error.into()))?;
        append(&mut self.file, &line).map_err(|error| Error::io(&self.path, error))
    }
}

/// Most workers on one folder.
const MAX_WORKERS: usize = 10_000;

/// Ends the line that a killed process left unfinished.
pub(crate) fn end_line(mut file: &File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    match last {
        [b'\n'] => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

/// Appends a line at once.
pub(crate) fn append(file: &mut File, line: &str) -> io::Result<()> {
    let _writing = hold_writing();
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::batch::Disk;

    fn record(output: &str, settings: &str) -> Record {
        Record {
            output: output.into(),
            job: "j".into(),
            settings: settings.into(),
            sha256: Record::digest(b"x"),
            bytes: 1,
            seconds: 2.0,
            evaluations: 3,
        }
    }

    #[test]
    fn all_ledgers_are_read_and_torn_lines_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let shard: Shard = "2/3".parse().unwrap();
        let mut whole = Ledger::open(&Disk, home.path(), Part::Whole)
            .unwrap()
            .unwrap();
        whole.add(&record("a.png", "1")).unwrap();
        drop(whole);
        // Killed within a line.
        let file = home.path().join("ledger.jsonl");
        let mut text = fs::read(&file).unwrap();
        text.extend_from_slice(b"{\"output\":\"b.png\",\"jo");
        fs::write(&file, text).unwrap();
        let mut whole = Ledger::open(&Disk, home.path(), Part::Whole)
            .unwrap()
            .unwrap();
        whole.add(&record("c/d.png", "2")).unwrap();
        let mut own = Ledger::open(&Disk, home.path(), Part::Shard(shard))
            .unwrap()
            .unwrap();
        own.add(&record("a.png", "3")).unwrap();
        own.add(&record("a.png", "3")).unwrap();
        assert!(home.path().join("ledger-2-of-3.jsonl").exists());
        fs::write(home.path().join("ledgers.jsonl"), "{}").unwrap();

        let records = Records::read(&Disk, home.path()).unwrap();
        let settings = |output: &str| {
            let known = records.of(output).iter().map(|one| one.settings.clone());
            let mut known: Vec<_> = known.collect();
            known.sort();
            known
        };
        assert_eq!(settings("a.png"), ["1", "3"]);
        assert_eq!(settings("c/d.png"), ["2"]);
        assert!(settings("b.png").is_empty());
        assert_eq!(records.mean(), Some((2.0, 1.0)));
        assert_eq!(
            Records::read(&Disk, &home.path().join("none"))
                .unwrap()
                .mean(),
            None
        );
    }

    #[test]
    fn a_part_is_worked_on_once_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let first = Ledger::open(&Disk, home.path(), Part::Whole)
            .unwrap()
            .unwrap();
        let second = Ledger::open(&Disk, home.path(), Part::Whole).unwrap_err();
        assert!(second.to_string().contains("--shard"), "{second}");
        let (one, first_part) = Ledger::of_worker(&Disk, home.path()).unwrap();
        let (_two, second_part) = Ledger::of_worker(&Disk, home.path()).unwrap();
        assert_eq!(
            (first_part, second_part),
            (Part::Worker(1), Part::Worker(2))
        );
        drop((first, one));
        assert!(Ledger::open(&Disk, home.path(), Part::Whole).is_ok());
        assert_eq!(
            Ledger::of_worker(&Disk, home.path()).unwrap().1,
            Part::Worker(1)
        );
    }
}
