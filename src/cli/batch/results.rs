//! The folder of results: what is finished in it, and how results get there.
//!
//! All that is written into the folder goes through [`Results::publish`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use icd::{
    Error,
    batch::{Ledger, Record, Records},
    io::{Existing, read_file, write_file},
};

use super::{fingerprint::Fingerprint, parser::check_inside, task::Task};
use crate::cli::settings::Settings;

/// What becomes of a result whose name is taken by another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Fails,
    Replaced,
}

/// The folder of results.
pub(crate) struct Results {
    folder: PathBuf,
    taken: Taken,
    records: Records,
    /// Where new ones are noted; none if nothing is to be written.
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
}

impl Results {
    /// The results in a folder, which need not exist.
    pub(crate) fn read(folder: &Path, taken: Taken) -> Result<Self> {
        Ok(Self {
            folder: folder.into(),
            taken,
            records: Records::read(folder)?,
            ledger: None,
        })
    }

    /// These, and a ledger for new ones.
    pub(crate) fn with_ledger(self, ledger: Ledger) -> Self {
        Self {
            ledger: Some(ledger),
            ..self
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// What is at the place of a result: finished, if it states these settings or if a ledger
    /// states them of its content. An error if its name is taken and that is to fail.
    pub(crate) fn found(&self, task: &Task, index: usize, wanted: &Fingerprint) -> Result<Found> {
        let file = &task.files[index];
        check_inside(file, &self.folder)?;
        if fs::symlink_metadata(file).is_err() {
            return Ok(Found::Nothing);
        }
        if file.is_file() && (states(task, file, wanted) || self.is_noted(file, wanted)?) {
            return Ok(Found::Finished);
        }
        match self.taken {
            Taken::Replaced if !file.is_dir() => Ok(Found::Other),
            _ => bail!(Error::setting(format!(
                "{}: this file exists and is not a result of these settings; --force replaces it",
                file.display()
            ))),
        }
    }

    fn is_noted(&self, file: &Path, wanted: &Fingerprint) -> Result<bool> {
        let known = self.records.of(&self.name(file)).iter();
        let mut known = known
            .filter(|one| one.settings == wanted.as_str())
            .peekable();
        if known.peek().is_none() {
            return Ok(false);
        }
        let content = read_file(file).map_err(|error| Error::io(file, error))?;
        let digest = Record::digest(&content);
        Ok(known.any(|one| one.sha256 == digest))
    }

    /// Whether a ledger tells that the result of a job as it was given is there. Neither the
    /// model nor the input is looked at.
    pub(crate) fn is_listed(&self, task: &Task, file: &Path) -> bool {
        let size = fs::metadata(file).ok().filter(fs::Metadata::is_file);
        let known = self.records.of(&self.name(file)).iter();
        let mut known = known.filter(|one| one.job == task.hash);
        size.is_some_and(|found| known.any(|one| one.bytes == found.len()))
    }

    /// Notes a result that was found finished, unless a ledger has it.
    pub(crate) fn note(&mut self, task: &Task, index: usize, wanted: &Fingerprint) -> Result<()> {
        let file = &task.files[index];
        if self.is_listed(task, file) {
            return Ok(());
        }
        let bytes = read_file(file).map_err(|error| Error::io(file, error))?;
        self.enter(&Made {
            task,
            index,
            fingerprint: wanted,
            bytes: &bytes,
            seconds: 0.0,
        })
    }

    /// Gives a result its name, whole or not at all, after the ledger knows it.
    pub(crate) fn publish(&mut self, made: &Made) -> Result<()> {
        let file = &made.task.files[made.index];
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
        }
        check_inside(file, &self.folder)?;
        self.enter(made)?;
        let existing = match self.taken {
            Taken::Fails => Existing::Keep,
            Taken::Replaced => Existing::Replace,
        };
        Ok(write_file(file, made.bytes, existing)?)
    }

    fn enter(&mut self, made: &Made) -> Result<()> {
        let record = Record {
            output: self.name(&made.task.files[made.index]),
            job: made.task.hash.clone(),
            settings: made.fingerprint.as_str().into(),
            sha256: Record::digest(made.bytes),
            bytes: made.bytes.len() as u64,
            seconds: made.seconds,
        };
        if let Some(ledger) = &mut self.ledger {
            ledger.add(&record)?;
            self.records.add(record);
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

/// Whether a result states these settings.
fn states(task: &Task, file: &Path, wanted: &Fingerprint) -> bool {
    let stated = || Some(Settings::read(file).ok()?.fingerprint(task.is_random));
    !task.is_without_metadata() && stated().as_ref() == Some(wanted)
}
