//! The folder of results: what is finished in it, and how results get there.
//!
//! All that is written into the folder goes through [`Results::publish`].

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, bail};
use icd::{
    Error,
    batch::{Kind, Ledger, Record, Records, Stat, Storage},
    io::Existing,
};

use super::{fingerprint::Fingerprint, parser::check_inside, task::Task};
use crate::cli::{settings::Settings, storage};

/// What becomes of a result whose name is taken by another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Fails,
    Replaced,
}

/// The folder of results. Clones are of the same folder and have one ledger.
#[derive(Clone)]
pub(crate) struct Results {
    storage: &'static dyn Storage,
    folder: PathBuf,
    taken: Taken,
    known: Arc<Mutex<Known>>,
}

/// What is known of the results.
struct Known {
    records: Records,
    /// Where new ones are noted; none if nothing is to be written, or each carries its record.
    ledger: Option<Ledger>,
}

/// What is at the place of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Finished,
    Other,
}

/// A result with all that is noted of it.
pub(crate) struct Made<'a> {
    pub(crate) task: &'a Task,
    /// Which of the task's results.
    pub(crate) index: usize,
    pub(crate) fingerprint: &'a Fingerprint,
    pub(crate) bytes: &'a [u8],
    pub(crate) seconds: f64,
    /// The evaluations of networks since its job began.
    pub(crate) evaluations: usize,
}

impl Results {
    /// The results in a folder, which need not exist.
    pub(crate) fn read(folder: &Path, taken: Taken) -> Result<Self> {
        let storage = storage::of(folder)?;
        Ok(Self {
            storage,
            folder: folder.into(),
            taken,
            known: Arc::new(Mutex::new(Known {
                records: Records::read(storage, folder)?,
                ledger: None,
            })),
        })
    }

    /// These, and a ledger for new ones.
    pub(crate) fn with_ledger(self, ledger: Option<Ledger>) -> Self {
        self.known().ledger = ledger;
        self
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while it is held leaves it valid.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn storage(&self) -> &'static dyn Storage {
        self.storage
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The mean seconds and bytes of earlier results; `None` without any.
    pub(crate) fn mean(&self) -> Option<(f64, f64)> {
        self.known().records.mean()
    }

    /// The mean evaluations for a result; `None` without any.
    pub(crate) fn mean_evaluations(&self) -> Option<f64> {
        self.known().records.mean_evaluations()
    }

    /// What ledgers tell of the file of a result.
    fn records(&self, file: &Path) -> Vec<Record> {
        self.known().records.of(&self.name(file)).to_vec()
    }

    /// What is at the place of a result: finished, if it states these settings or if its record
    /// or a ledger states them of its content. An error if its name is taken and that is to fail.
    pub(crate) fn found(&self, task: &Task, index: usize, wanted: &Fingerprint) -> Result<Found> {
        let file = &task.files[index];
        check_inside(file, &self.folder)?;
        let Some(stat) = self.storage.stat(file)? else {
            return Ok(Found::Nothing);
        };
        if let Stat::File { record, .. } = &stat
            && match record {
                Some(record) => record.settings == wanted.as_str(),
                None => self.states(task, file, wanted)? || self.is_noted(file, wanted)?,
            }
        {
            return Ok(Found::Finished);
        }
        match self.taken {
            Taken::Replaced if stat != Stat::Folder => Ok(Found::Other),
            _ => bail!(Error::setting(format!(
                "{}: this file exists and is not a result of these settings; --force replaces it",
                file.display()
            ))),
        }
    }

    /// Whether a result states these settings.
    fn states(&self, task: &Task, file: &Path, wanted: &Fingerprint) -> Result<bool> {
        if task.is_without_metadata() {
            return Ok(false);
        }
        let stated = Settings::of_picture(&self.storage.read(file)?, file);
        Ok(stated.is_ok_and(|stated| stated.fingerprint(task.is_random) == *wanted))
    }

    fn is_noted(&self, file: &Path, wanted: &Fingerprint) -> Result<bool> {
        let mut known = self.records(file);
        known.retain(|one| one.settings == wanted.as_str());
        if known.is_empty() {
            return Ok(false);
        }
        let digest = Record::digest(&self.storage.read(file)?);
        Ok(known.iter().any(|one| one.sha256 == digest))
    }

    /// Whether a record tells that the result of a job as it was given is there. Neither the
    /// model nor the input is looked at.
    pub(crate) fn is_listed(&self, task: &Task, file: &Path) -> Result<bool> {
        let Some(Stat::File { bytes, record }) = self.storage.stat(file)? else {
            return Ok(false);
        };
        let known = self.records(file).into_iter().chain(record);
        let mut known = known.filter(|one| one.job == task.hash);
        Ok(known.any(|one| one.bytes == bytes))
    }

    /// Notes a result that was found finished, unless a ledger has it.
    pub(crate) fn note(&self, task: &Task, index: usize, wanted: &Fingerprint) -> Result<()> {
        let file = &task.files[index];
        if self.storage.kind() == Kind::Objects || self.is_listed(task, file)? {
            return Ok(());
        }
        let bytes = self.storage.read(file)?;
        self.enter(self.record(&Made {
            task,
            index,
            fingerprint: wanted,
            bytes: &bytes,
            seconds: 0.0,
            evaluations: 0,
        }))
    }

    /// Gives a result its name, whole or not at all, after the ledger knows it.
    pub(crate) fn publish(&self, made: &Made) -> Result<()> {
        let file = &made.task.files[made.index];
        if let Some(parent) = file.parent().filter(|_| self.storage.kind() == Kind::Files) {
            self.storage.create_folder(parent)?;
        }
        check_inside(file, &self.folder)?;
        let record = self.record(made);
        self.enter(record.clone())?;
        let existing = match self.taken {
            Taken::Fails => Existing::Keep,
            Taken::Replaced => Existing::Replace,
        };
        let record = Some(&record);
        Ok(self.storage.write(file, made.bytes, record, existing)?)
    }

    fn record(&self, made: &Made) -> Record {
        Record {
            output: self.name(&made.task.files[made.index]),
            job: made.task.hash.clone(),
            settings: made.fingerprint.as_str().into(),
            sha256: Record::digest(made.bytes),
            bytes: made.bytes.len() as u64,
            seconds: made.seconds,
            evaluations: made.evaluations,
        }
    }

    fn enter(&self, record: Record) -> Result<()> {
        let known = &mut *self.known();
        if let Some(ledger) = &mut known.ledger {
            ledger.add(&record)?;
            known.records.add(record);
        }
        Ok(())
    }

    /// The path of a result below the folder, with `/` between names.
    pub(crate) fn name(&self, file: &Path) -> String {
        let below = file.strip_prefix(&self.folder).unwrap_or(file);
        let names = below.iter().map(|name| name.to_string_lossy());
        names.collect::<Vec<_>>().join("/")
    }
}
