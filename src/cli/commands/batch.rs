//! `icd batch`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use clap::{ArgMatches, Args, Command};
use icd::{
    Error,
    batch::{Failures, Ledger, Part, Replacement, Stat},
};

use crate::cli::{
    Console, ReportArgs,
    args::{
        control::ControlArgs, device, method::MethodArgs, model::ModelArgs, output,
        result::KeepPixels, shard::ShardChoice, size::SizeArgs, values::Seed,
    },
    batch::{
        jobs::{self, Line},
        manifest::Batch,
        parser::Parser,
        plan,
        report::Told,
        results::{Results, Taken},
        runner::Runner,
        status, worker,
    },
    exit::{Exit, is_of_network},
    in_flags, storage,
};

/// Runs many jobs with the model loaded once.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BatchArgs {
    /// JSON lines, CSV with a header, or a folder of pictures; - takes jobs as JSON lines from stdin and
    /// answers each by a line on stdout before it reads the next.
    #[arg(value_name = "JOBS")]
    jobs: PathBuf,
    /// The folder of results; with the feature `cloud` also a URL, as s3://bucket/out.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Run a part of the jobs, K from 1; auto: the task of a SLURM array or of srun, or of an AWS
    /// Batch array; auto/N: of so many, as for Kubernetes, which tells no number.
    #[arg(long, value_name = "K/N|auto|auto/N")]
    shard: Option<ShardChoice>,
    /// Replace existing files that are not results of the same settings.
    #[arg(long)]
    force: bool,
    /// Print the number of jobs, finished ones, evaluations, time and disk; load no weights.
    #[arg(long)]
    dry_run: bool,
    /// Print what is done, failed and missing over all shards; 1 unless all is done.
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Words of the source prompt and those in their place in the target prompt, for jobs without
    /// one; repeat it for several.
    #[arg(long, value_name = "FROM=TO", conflicts_with = "tgt_prompt")]
    replace: Vec<Replacement>,
    /// Most rows (sources and targets) of one network evaluation [default: 8].
    #[arg(long, value_name = "N")]
    max_rows: Option<NonZeroUsize>,
    #[command(flatten)]
    _of_jobs: OfJobs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Settings of all jobs that do not say otherwise, as their own commands have them.
#[derive(Args)]
#[command(next_help_heading = "Of jobs that do not say otherwise")]
struct OfJobs {
    /// What each picture should show; repeat it for several edits of one inversion.
    #[arg(long, allow_hyphen_values = true)]
    tgt_prompt: Vec<String>,
    /// Seed of the noise, or random.
    #[arg(
        long,
        value_name = "N|random",
        default_value = "0",
        allow_negative_numbers = true
    )]
    seed: Seed,
    /// Keep inversions in this folder and reuse them.
    #[arg(long, env = "ICD_CACHE", hide_env_values = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Leave the settings out of the results.
    #[arg(long)]
    no_metadata: bool,
    /// As that of `icd edit`.
    #[arg(long, value_name = "on|off", num_args = 0..=1, default_missing_value = "on")]
    #[arg(hide_possible_values = true)]
    keep_pixels: Option<KeepPixels>,
    /// Leave results at the size of the work.
    #[arg(long, conflicts_with = "restore_size")]
    model_size: bool,
    /// Scale results to the size of their input with --size or latents, too.
    #[arg(long)]
    restore_size: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    size: SizeArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd batch jobs.jsonl --output-dir out
  icd batch pictures --replace \"bird=lego bird\" --output-dir out
  icd batch jobs.csv --output-dir out --shard 1/4 --dry-run
  echo '{\"verb\": \"generate\", \"prompt\": \"an owl\"}' | icd batch - --output-dir out";

impl BatchArgs {
    /// Runs the jobs; `command` is that of the program, and `given` what was given to this one.
    pub(crate) fn run(&self, command: &Command, given: &ArgMatches) -> Result<()> {
        match self.ran(command, given) {
            Err(error) if is_of_network(&error) => Err(error.context(Exit::Machine)),
            ran => ran,
        }
    }

    fn ran(&self, command: &Command, given: &ArgMatches) -> Result<()> {
        let folder = &self.output_dir;
        let own = command.find_subcommand("batch").unwrap_or(command);
        let mut parser = Parser::new(command, (own, given), (folder, &self.replace));
        let is_worker = output::is_stdout(&self.jobs);
        let reason =
            "jobs from stdin are not counted beforehand: no --shard, --dry-run or --status";
        let counts = self.shard.is_some() || self.dry_run || self.status;
        ensure!(!(is_worker && counts), Error::setting(reason));
        let shard = self.shard.map(ShardChoice::shard).transpose()?;
        if is_worker {
            return self.serve(&mut parser);
        }
        let entries = jobs::read(&self.jobs).map_err(unread)?;
        let lines = jobs::understood(entries, &mut parser);
        let results = self.results()?;
        if self.status {
            return status::print(&lines, &results, &mut parser, self.report);
        }
        let lines = jobs::of_shard(lines, shard)?;
        let part = shard.map_or(Part::Whole, Part::Shard);
        match self.dry_run {
            true => self.plan(lines, results),
            false => self.work(lines, results, part),
        }
    }

    fn results(&self) -> Result<Results> {
        let folder = &self.output_dir;
        let reason = || format!("{}: this is not a folder", folder.display());
        let found = storage::of(folder)?.stat(folder)?;
        ensure!(
            matches!(found, None | Some(Stat::Folder)),
            Error::setting(reason())
        );
        let taken = match self.force {
            true => Taken::Replaced,
            false => Taken::Fails,
        };
        Results::read(folder, taken)
    }

    /// A worker on the first device, and the other devices.
    fn runner(&self, results: Results) -> Result<(Runner, Vec<Device>)> {
        let console = Console::of_jobs(self.report);
        storage::tell_with(console.notes());
        let mut devices = self.model.open_devices(&console)?;
        let names: Vec<_> = devices.iter().map(device::name).collect();
        console.note(&format!("device: {}", names.join(", ")));
        let first = devices.remove(0);
        let runner = Runner::new(first, self.max_rows, results, console);
        Ok((runner, devices))
    }

    /// Serves jobs from stdin.
    fn serve(&self, parser: &mut Parser) -> Result<()> {
        let (storage, folder) = (storage::of(&self.output_dir)?, &self.output_dir);
        storage.create_folder(folder)?;
        let (ledger, part) = Ledger::of_worker(storage, folder)?;
        let results = self.results()?.with_ledger(ledger);
        let (mut runner, others) = self.runner(results)?;
        let reason = "--device cuda:all needs a manifest: start a worker for each GPU, as with \
                      --device cuda:0";
        ensure!(others.is_empty(), Error::setting(reason));
        let mut failures = Failures::begin(storage, folder, part, Path::new(""))?;
        runner.console.clear();
        let served = worker::serve(&mut runner, parser, &mut failures);
        let told = failures.path().display().to_string();
        failures.finish().context(Exit::Machine)?;
        match served? {
            0 => Ok(()),
            failed => {
                let told = format!("{failed} of the jobs failed: see {told}");
                Err(Exit::JobsFailed(Some(told)).into())
            }
        }
    }

    /// Runs the jobs of a manifest.
    fn work(&self, lines: Vec<Line>, results: Results, part: Part) -> Result<()> {
        let (storage, folder) = (storage::of(&self.output_dir)?, &self.output_dir);
        storage.create_folder(folder)?;
        let ledger = Ledger::open(storage, folder, part)?;
        let (mut runner, others) = self.runner(results.with_ledger(ledger))?;
        let failures = Failures::begin(storage, folder, part, &self.jobs);
        let told = match self.report.json {
            true => Told::Objects,
            false => Told::Names,
        };
        let failures = failures.context(Exit::Machine)?;
        Batch::new(&self.jobs, failures, told).run(lines, &mut runner, &others)
    }

    /// Tells what the jobs would take.
    fn plan(&self, lines: Vec<Line>, results: Results) -> Result<()> {
        let (mut runner, _) = self.runner(results)?;
        plan::print(&self.jobs, lines, &mut runner, self.report)
    }
}

/// A manifest that cannot be read is wrong usage, unless the network is at fault.
fn unread(error: anyhow::Error) -> anyhow::Error {
    match is_of_network(&error) {
        true => error,
        false => Error::setting(in_flags(&error)).into(),
    }
}
