//! Jobs as the arguments of their verbs: each key is a flag with underscores, and every check
//! of the command line is one of jobs, too.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgMatches, Command, FromArgMatches, parser::ValueSource};
use icd::{
    Error,
    batch::{Entry, Fault, Job, Replacement},
    io::resolved,
};
use serde_json::Value;

use super::task::{Task, Work};
use crate::cli::{
    commands::{edit::EditArgs, generate::GenerateArgs, inspect::SETTINGS, invert::InvertArgs},
    in_flags,
    settings::{EXCLUSIVE, Origin, READ, RENAMED, STATED, Settings, completed, value, values},
};

/// The verbs of jobs, the usual one first.
const VERBS: [&str; 3] = ["edit", "generate", "invert"];

/// Flags of the whole batch, which a job cannot have.
const OF_BATCH: [&str; 12] = [
    "device",
    "threads",
    "max_rows",
    "residency",
    "yes",
    "force",
    "json",
    "quiet",
    "verbose",
    "dry_run",
    "config_file",
    "help",
];

/// Flags that name a file to write beside the result.
const BESIDE: [&str; 6] = [
    "comparison",
    "attention",
    "attention_maps",
    "save_latents",
    "dump",
    "reconstruct",
];

/// Flags of sheets of several results, which are no results of a job.
const OF_SHEETS: [&str; 2] = ["sweep", "pick"];

/// The digits of a hash in the name of a result.
const NAME_DIGITS: usize = 8;

/// Understands jobs.
pub(crate) struct Parser {
    /// The commands of the verbs.
    verbs: Vec<Command>,
    /// What was given to the batch for all jobs that do not say otherwise.
    defaults: Vec<(String, Value)>,
    /// Arguments that every job has.
    common: Vec<OsString>,
    replacements: Vec<Replacement>,
    /// The folder of results.
    folder: PathBuf,
}

impl Parser {
    /// Of the command `own`, as `icd batch`, of which `given` are the arguments; `command` is
    /// that of the program.
    pub(crate) fn new(
        command: &Command,
        (own, given): (&Command, &ArgMatches),
        (folder, replacements): (&Path, &[Replacement]),
    ) -> Self {
        let of = |verb| command.find_subcommand(verb).cloned();
        let is_given = |arg: &&Arg| {
            let id = arg.get_id().as_str();
            let is_known = given.try_contains_id(id).unwrap_or(false);
            is_known && given.value_source(id) == Some(ValueSource::CommandLine)
        };
        let of_jobs = |arg: &&Arg| !OF_BATCH.contains(&arg.get_id().as_str());
        let defaults = own.get_arguments().filter(is_given).filter(of_jobs);
        let defaults = defaults.filter_map(|arg| {
            let value = value(arg, given)?;
            Some((arg.get_id().to_string(), value))
        });
        let mut common = Vec::new();
        if let Some(residency) = given.get_raw("residency").and_then(|mut raw| raw.next()) {
            let mut argument = OsString::from("--residency=");
            argument.push(residency);
            common.push(argument);
        }
        if given.get_flag("yes") {
            common.push("--yes".into());
        }
        Self {
            verbs: VERBS.iter().filter_map(of).collect(),
            defaults: defaults.collect(),
            common,
            replacements: replacements.to_vec(),
            folder: folder.into(),
        }
    }

    /// The task of an entry, or what is wrong with it.
    pub(crate) fn task(&mut self, entry: Entry) -> Result<Task, Fault> {
        let mut job = entry.content?;
        let parsed = self.parsed(entry.line, &mut job);
        parsed.map_err(|error| Fault {
            kept: job,
            reason: reason(&error),
        })
    }

    fn parsed(&mut self, line: usize, job: &mut Job) -> Result<Task> {
        take_settings(job);
        for (former, key) in RENAMED {
            if let Some(value) = job.remove(former) {
                job.insert(key.into(), value);
            }
        }
        let verb = match job.get("verb") {
            None => VERBS[0].to_owned(),
            Some(Value::String(verb)) => verb.clone(),
            Some(other) => bail!("verb: {other}: write one of {}", VERBS.join(", ")),
        };
        let known = self.verbs.iter_mut().find(|own| own.get_name() == verb);
        let unknown = || format!("verb: {verb:?}: write one of {}", VERBS.join(", "));
        let command = known.with_context(unknown)?;
        add_defaults(job, command, &self.defaults);
        add_target(job, command, &self.replacements)?;
        let output = output(job)?;
        let mut arguments = self.common.clone();
        arguments.extend(arguments_of(job, command)?);
        if let Some(output) = &output {
            let mut argument = OsString::from("--output=");
            argument.push(self.folder.join(output));
            arguments.push(argument);
        }
        let typed = |arguments: &[OsString], command: &mut Command| {
            let name = OsString::from(command.get_name());
            command.try_get_matches_from_mut([name].iter().chain(arguments))
        };
        let matches = typed(&arguments, command)?;
        let (arguments, of_png) = completed(arguments, command, &matches)?;
        let matches = typed(&arguments, command)?;
        check_single(&matches)?;
        let settings = Settings::of(command, &matches, Origin::stated(job).or(of_png));
        let mut work = match command.get_name() {
            "generate" => Work::Generate(Box::new(GenerateArgs::from_arg_matches(&matches)?)),
            "invert" => Work::Invert(Box::new(InvertArgs::from_arg_matches(&matches)?)),
            _ => Work::Edit(Box::new(EditArgs::from_arg_matches(&matches)?)),
        };
        let hash = settings.hash();
        let output = output.unwrap_or_else(|| work.name(&hash[..NAME_DIGITS]));
        let files = work.files(&self.folder.join(output));
        files
            .iter()
            .try_for_each(|file| check_inside(file, &self.folder))?;
        Ok(Task {
            line,
            kept: job.clone(),
            is_random: work.settle_seed(),
            work,
            settings,
            hash,
            files,
        })
    }
}

/// A job with `settings`, as `icd inspect --json` tells of a result, has these, and of its other
/// keys only the output: they tell of the result's file.
fn take_settings(job: &mut Job) {
    if let Some(Value::Object(settings)) = job.remove(SETTINGS) {
        let output = job.remove("output");
        *job = settings;
        job.extend(output.map(|output| ("output".to_owned(), output)));
    }
}

/// Adds what was given to the batch and not to the job, as far as its verb has it.
fn add_defaults(job: &mut Job, command: &Command, defaults: &[(String, Value)]) {
    let excludes = |given: &Job, key: &str| {
        let pairs = EXCLUSIVE.iter().filter(|pair| pair.contains(&key));
        pairs.flatten().any(|other| given.contains_key(*other))
    };
    let given = job.clone();
    for (key, value) in defaults {
        let mut arguments = command.get_arguments();
        let is_known = arguments.any(|arg| arg.get_id() == key.as_str());
        if is_known && !given.contains_key(key) && !excludes(&given, key) {
            job.insert(key.clone(), value.clone());
        }
    }
}

/// Adds the target prompt of an edit that has none: its source prompt in other words.
fn add_target(job: &mut Job, command: &Command, replacements: &[Replacement]) -> Result<()> {
    let is_edit = command.get_name() == VERBS[0];
    if !is_edit || replacements.is_empty() || job.contains_key("tgt_prompt") {
        return Ok(());
    }
    if let Some(Value::String(source)) = job.get("src_prompt") {
        let target = Replacement::all(replacements, source)?;
        job.insert("tgt_prompt".into(), target.into());
    }
    Ok(())
}

/// The arguments of the keys of a job, except those of the output.
fn arguments_of(job: &Job, command: &Command) -> Result<Vec<OsString>> {
    let mut arguments = Vec::new();
    for (key, value) in job {
        if STATED.contains(&key.as_str()) || key == "output" {
            continue;
        }
        check_key(key)?;
        let mut known = command.get_arguments();
        let known = known.find(|arg| arg.get_id() == key.as_str());
        let flag = known.and_then(|arg| Some((arg.get_action(), arg.get_long()?)));
        let verb = command.get_name();
        let (action, flag) = flag.with_context(|| format!("{key}: no setting of icd {verb}"))?;
        for text in values(action, value).with_context(|| key.clone())? {
            let is_file = READ.contains(&key.as_str()) || key == "from";
            if is_file && text.as_deref() == Some("-") {
                bail!("{key}: - (stdin) is no file of a job: name a file");
            }
            arguments.push(match text {
                Some(text) => format!("--{flag}={text}").into(),
                None => format!("--{flag}").into(),
            });
        }
    }
    Ok(arguments)
}

/// Fails on a sheet of several results, which the settings of a file may ask for, too.
fn check_single(matches: &ArgMatches) -> Result<()> {
    let is_given = |id: &&str| matches.try_contains_id(id).unwrap_or(false);
    if let Some(flag) = OF_SHEETS.iter().copied().find(|id| is_given(id)) {
        bail!("{flag}: a job is one edit, not a sheet of several: write a job for each value");
    }
    Ok(())
}

/// Fails on keys that a job cannot have.
fn check_key(key: &str) -> Result<()> {
    ensure!(
        !BESIDE.contains(&key),
        "{key}: this names another file to write: a job writes its output alone"
    );
    ensure!(
        !OF_BATCH.contains(&key),
        "{key}: this is a flag of the whole batch, not of a job"
    );
    Ok(())
}

/// The output of a job, a path that stays below the folder of results.
fn output(job: &Job) -> Result<Option<PathBuf>> {
    let text = match job.get("output") {
        None => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => bail!("output: a text is expected"),
    };
    let path = Path::new(text);
    let is_inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    ensure!(
        path.components().all(is_inside),
        "output: {text:?}: write a path below the folder of results, neither absolute nor with .."
    );
    ensure!(
        text != "-",
        "output: - (stdout) is no file of a job: name a file"
    );
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    ensure!(
        ending != "jsonl",
        "output: {text:?}: .jsonl is the ending of the ledger and of the list of failures"
    );
    Ok(Some(
        path.components()
            .filter(|part| *part != Component::CurDir)
            .collect(),
    ))
}

/// Fails on a result that links would lead out of the folder.
pub(crate) fn check_inside(file: &Path, folder: &Path) -> Result<()> {
    let reason = || {
        format!(
            "output: {}: links lead out of the folder of results",
            file.display()
        )
    };
    ensure!(
        resolved(file).starts_with(resolved(folder)),
        Error::setting(reason())
    );
    Ok(())
}

/// What is wrong, on a line.
pub(crate) fn reason(error: &anyhow::Error) -> String {
    match error.downcast_ref::<clap::Error>() {
        Some(usage) => {
            let report = usage.to_string();
            let lines = report.lines().take_while(|line| !line.is_empty());
            let lines: Vec<_> = lines.map(str::trim).collect();
            let line = lines.join(" ");
            line.strip_prefix("error: ").unwrap_or(&line).into()
        }
        None => in_flags(error),
    }
}
