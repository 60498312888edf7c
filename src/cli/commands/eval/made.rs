//! The results of an evaluation, made as the jobs of a batch.

use std::{
    collections::HashSet,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{ArgMatches, Command};
use icd::{
    Error,
    batch::{Entry, Failures, Job, Ledger, Part, Shard},
};
use serde_json::Value;

use super::OutArgs;
use crate::cli::{
    Console, ReportArgs,
    args::{device, model::ModelArgs},
    batch::{
        jobs,
        manifest::Batch,
        parser::Parser,
        report::Told,
        results::{Results, Taken},
        runner::Runner,
    },
    exit::Exit,
    storage,
};

/// The folder of results below that of tables.
pub(super) const PICTURES: &str = "pictures";

/// What makes results.
pub(super) struct Making<'a> {
    /// What is named in messages: the data.
    pub(super) data: &'a Path,
    pub(super) out: &'a OutArgs,
    pub(super) model: &'a ModelArgs,
    pub(super) max_rows: Option<NonZeroUsize>,
    pub(super) report: ReportArgs,
    /// The command of the program.
    pub(super) command: &'a Command,
    /// The command that was given, and what was given to it.
    pub(super) given: (&'a Command, &'a ArgMatches),
}

/// The part of the work that was done.
pub(super) struct Made {
    /// The indices of the jobs that were this part's.
    pub(super) own: Vec<usize>,
    /// The indices of jobs that failed, of other parts, too: a file in the place of their
    /// results is not theirs.
    pub(super) faults: HashSet<usize>,
    /// The message that some failed, if so.
    pub(super) failed: Option<String>,
    pub(super) runner: Runner,
}

impl Making<'_> {
    /// Runs the jobs of this part; those that are finished are not run again.
    pub(super) fn run(&self, jobs: Vec<Job>, shard: Option<Shard>) -> Result<Made> {
        let folder = &self.out.out;
        let mut parser = Parser::new(self.command, self.given, (folder, &[]));
        let entries = jobs.into_iter().enumerate().map(|(index, job)| Entry {
            line: index + 1,
            content: Ok(job),
        });
        let lines = jobs::understood(entries.collect(), &mut parser);
        let lines = jobs::of_shard(lines, shard)?;
        let number = |line: &jobs::Line| match line {
            Ok(task) => task.line,
            Err(refused) => refused.line,
        };
        let own = lines.iter().map(|line| number(line) - 1).collect();
        let part = part(shard);
        let storage = storage::of(folder)?;
        let ledger = Ledger::open(storage, folder, part)?;
        let taken = match self.out.force {
            true => Taken::Replaced,
            false => Taken::Fails,
        };
        let results = Results::read(folder, taken)?.with_ledger(ledger);
        let console = Console::of_jobs(self.report);
        let mut devices = self.model.open_devices(&console)?;
        let names: Vec<_> = devices.iter().map(device::name).collect();
        console.note(&format!("device: {}", names.join(", ")));
        let mut runner = Runner::new(devices.remove(0), self.max_rows, results, console);
        let failures = Failures::begin(storage, folder, part, Path::new(""));
        let failures = failures.context(Exit::Machine)?;
        let batch = Batch::new(self.data, failures, Told::Nothing);
        let ran = batch.run(lines, &mut runner, &devices);
        let failed = match ran {
            Ok(()) => None,
            Err(error) => match error.downcast::<Exit>()? {
                Exit::JobsFailed(told) => Some(told.unwrap_or_default()),
                machine @ Exit::Machine => return Err(machine.into()),
            },
        };
        Ok(Made {
            own,
            faults: faults(folder, shard)?,
            failed,
            runner,
        })
    }
}

/// The jobs in the list of failures, of a shard in those of all.
fn faults(folder: &Path, shard: Option<Shard>) -> Result<HashSet<usize>> {
    let lists = match shard {
        Some(_) => Failures::all(storage::of(folder)?, folder)?,
        None => fs::read(Failures::list(folder, part(shard)))
            .into_iter()
            .collect(),
    };
    let lines = lists
        .iter()
        .flat_map(|list| list.split(|byte| *byte == b'\n'));
    let line = |text: &[u8]| {
        let fault: Value = serde_json::from_slice(text).ok()?;
        (fault["line"].as_u64()? as usize).checked_sub(1)
    };
    Ok(lines.filter_map(line).collect())
}

/// The part of a shard, or all.
pub(super) fn part(shard: Option<Shard>) -> Part {
    shard.map_or(Part::Whole, Part::Shard)
}

/// Creates the folder of results, which is one of this machine: tables are read again and
/// written anew.
pub(super) fn create(folder: &Path) -> Result<()> {
    let reason = || format!("{}: name a folder of this machine", folder.display());
    ensure!(!storage::is_url(folder), Error::setting(reason()));
    Ok(fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?)
}

/// The name of a result as a job states it: a PNG below the folder of all.
pub(super) fn output(result: &Path) -> String {
    let path: PathBuf = Path::new(PICTURES).join(result.with_extension("png"));
    let names = path.iter().map(|name| name.to_string_lossy());
    names.collect::<Vec<_>>().join("/")
}
