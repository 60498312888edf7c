//! The command line: one module per command. Only this module prints, picks a device
//! or reads the environment, except as the library's documentation states.

mod args;
mod batch;
mod canvas;
mod commands;
mod config;
mod effective;
mod exit;
mod grid;
mod interrupt;
mod inversion;
mod keep;
mod picture;
mod settings;
mod short_help;
mod storage;
mod threads;
mod typed;
mod ui;

use std::{env, ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::{
    Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use icd::{Error, error::reason_of};

use commands::{
    batch as batches, completions, distill, edit, eval, generate, inspect, invert, man, metrics,
    model as models,
};
use config::{Config, is_set_to_nothing};
use edit::{Call, Sweep};
use exit::Exit;
use settings::{Origin, Settings};
use ui::{
    console::Console,
    lines::{log_error, log_failure},
};

/// Edits real pictures with two prompts: invertible Consistency Distillation on
/// Stable Diffusion 1.5 and SDXL.
///
/// A picture is inverted to noise under a prompt that describes it, then denoised under
/// a prompt that describes the result, in three or four steps each. There is no safety
/// checker: icd outputs whatever the weights produce.
#[derive(Parser)]
#[command(version, bin_name = "icd", max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// A file with defaults of flags, or none [default: what ICD_CONFIG says, else
    /// ~/.config/icd/config.toml or its like, see the README].
    #[arg(
        long = "config",
        global = true,
        value_name = "FILE|none",
        help_heading = "Logging"
    )]
    config_file: Option<OsString>,
}

/// The command line, with a short `-h`.
pub(crate) fn command() -> Command {
    // The networks of a batch are used again and again.
    let kept = |arg: Arg| arg.default_value("all");
    let command = Cli::command();
    let command = command.mut_subcommand("batch", |batch| batch.mut_arg("residency", kept));
    let of_many = |eval: Command| {
        let kept_by = |verb: Command| verb.mut_arg("residency", kept);
        eval.mut_subcommands(kept_by)
    };
    short_help::with(command.mut_subcommand("eval", of_many))
}

const EXAMPLES: &str = "\
Examples:
  icd edit --image in.png --src-prompt \"a photo of a bird\" \\
      --tgt-prompt \"a photo of a lego bird\"
  icd generate --prompt \"a cute owl\" --seed 7 -o owl.png";

#[derive(Subcommand)]
enum Verb {
    /// Edit a picture, given a prompt that describes it and one for the result.
    Edit(Box<edit::EditArgs>),
    /// Invert a picture to noise, to reuse for several edits.
    Invert(Box<invert::InvertArgs>),
    /// Generate a picture from a prompt.
    Generate(Box<generate::GenerateArgs>),
    /// Run many edits, generations and inversions, each saved as it is made.
    ///
    /// A job is a line of JSON or a record of CSV with a header: its keys are the flags of its
    /// verb with underscores, as the settings of a result; `verb` is edit unless it says generate
    /// or invert, and `output` lies below the folder of results. A cell of CSV that holds a
    /// JSON array is a list. In a folder each picture NAME.png is a job, with its caption
    /// NAME.txt as source prompt and NAME.mask.png as mask.
    ///
    /// All jobs are checked before a network is loaded. Each result is written when it is made,
    /// as its own command would write it; a finished one, known by the settings in it or by
    /// DIR/ledger.jsonl, is skipped, so that the same command goes on after an interruption.
    /// What fails stops nothing and is listed in DIR/failed.jsonl, to be mended and run in turn.
    ///
    /// Exit codes: 0 all done; 1 some jobs failed; 2 wrong usage or no manifest; 75 the machine
    /// failed (disk full, out of memory, device lost): run it again.
    Batch(Box<batches::BatchArgs>),
    /// Compare two pictures: PSNR, SSIM, LPIPS, CLIP score and other measures.
    Metrics(Box<metrics::MetricsArgs>),
    /// Measure a model over many pictures, with tables and a report.
    Eval(Box<eval::EvalArgs>),
    /// Train an iCD model: distil guidance into a UNet, then train its two LoRA adapters.
    Distill(distill::DistillArgs),
    /// Describe a picture, a weights file or a model folder.
    Inspect(inspect::InspectArgs),
    /// List, fetch, verify and convert models.
    Model(models::ModelsArgs),
    /// Print a shell completion script.
    Completions(completions::CompletionsArgs),
    /// Print the manual page.
    Man(man::ManArgs),
}

/// What a command prints.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Logging")]
struct ReportArgs {
    /// Print one JSON object per result instead of its file name.
    #[arg(long)]
    json: bool,
    /// Print errors only.
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,
    /// Report what is loaded and the number of network evaluations.
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the program: 0 done, 1 failed, 2 wrong usage, 75 the machine failed; or ended by a
/// signal.
pub(crate) fn run() -> ExitCode {
    let listening = interrupt::end_at_signals();
    match listening.and_then(|()| task()).and_then(Task::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Reports an error on stderr: a line, or with `--json` an object on one line.
fn failed(error: &anyhow::Error) -> ExitCode {
    let as_json = env::args_os().any(|arg| arg == "--json");
    let usage = error.downcast_ref::<clap::Error>();
    if let Some(help) = usage.filter(|usage| is_help(usage)) {
        help.exit();
    }
    let end = error.downcast_ref::<Exit>();
    let code = match end {
        Some(end) => end.code(),
        None if usage.is_some() || is_usage(error) => 2,
        None => 1,
    };
    if end.is_some_and(Exit::is_told) {
        return ExitCode::from(code);
    }
    let message = match usage {
        Some(usage) => first_paragraph(&usage.to_string()),
        None => in_flags(error),
    };
    match (usage, as_json) {
        (_, true) => log_failure(&message, code),
        // Harmless like every message: the settings of a picture are arguments, too.
        (Some(usage), false) => {
            let report = usage.render().to_string();
            log_error(report.trim_end().trim_start_matches("error: "));
        }
        (None, false) => log_error(&message),
    }
    ExitCode::from(code)
}

/// Whether clap reports no error, but help or the version.
fn is_help(usage: &clap::Error) -> bool {
    usage.exit_code() == 0 || usage.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// The first paragraph of clap's report on one line, without its label: what is wrong, and
/// what is missing or possible.
fn first_paragraph(report: &str) -> String {
    let lines: Vec<_> = report.lines().map(str::trim).collect();
    let first = lines.split(|line| line.is_empty()).next().unwrap_or(&[]);
    let text = first.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).into()
}

/// What is to be done.
enum Task {
    Command(Parsed),
    Sweep(Sweep),
}

/// A parsed command line.
struct Parsed {
    verb: Verb,
    settings: Settings,
    /// The command of the program, with the defaults of the configuration file.
    command: Command,
    matches: ArgMatches,
}

/// The task of the command line.
fn task() -> Result<Task> {
    let typed: Vec<_> = env::args_os().collect();
    let matches = without_empty_variables(command()).try_get_matches_from(&typed);
    let matches = matches.map_err(|error| with_flag(error, &typed))?;
    let config = Config::of(&command(), &matches)?;
    let command = without_empty_variables(config.applied(command()));
    let parsed = parsed(&command, typed, &matches)?;
    match (parsed.verb, matches.subcommand()) {
        (Verb::Edit(args), Some((name, own))) if args.is_sweep() => {
            let edit = command.find_subcommand(name).unwrap_or(&command);
            let call = (*args, parsed.settings);
            Sweep::of(call, (edit, own), &|typed| call_of(&command, typed)).map(Task::Sweep)
        }
        (verb, _) => Ok(Task::Command(Parsed { verb, ..parsed })),
    }
}

/// The edit of another command line.
fn call_of(command: &Command, typed: Vec<OsString>) -> Result<Call> {
    let matches = command.clone().try_get_matches_from(&typed)?;
    let parsed = parsed(command, typed, &matches)?;
    match parsed.verb {
        Verb::Edit(args) => Ok((*args, parsed.settings)),
        _ => bail!("this is no edit"),
    }
}

/// The parsed command line, completed with the settings of the `--from` file.
fn parsed(command: &Command, typed: Vec<OsString>, matches: &ArgMatches) -> Result<Parsed> {
    let of = |verb| command.find_subcommand(verb);
    let (typed, origin) = match matches
        .subcommand()
        .and_then(|(verb, own)| Some((of(verb)?, own)))
    {
        Some((verb, own)) => settings::completed(typed, verb, own)?,
        None => (typed, Origin::default()),
    };
    let matches = command.clone().try_get_matches_from(typed)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let settings = matches.subcommand().and_then(|(verb, own)| {
        let command = command.find_subcommand(verb)?;
        Some(Settings::of(command, own, origin))
    });
    Ok(Parsed {
        verb: cli.verb,
        settings: settings.unwrap_or_default(),
        command: command.clone(),
        matches,
    })
}

/// The report of a word that no argument takes, with the flag that it is likely meant for.
fn with_flag(mut error: clap::Error, typed: &[OsString]) -> clap::Error {
    let verb = typed.get(1).and_then(|verb| verb.to_str());
    let flag = match verb {
        Some("edit" | "invert") => "--image",
        Some("generate") => "--prompt",
        _ => return error,
    };
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
        && error.kind() == ErrorKind::UnknownArgument
        && !word.starts_with('-')
    {
        let tip = format!("did you mean {flag} {word:?}?").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// The command with environment variables that are set to nothing counted as not set.
fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| match is_set_to_nothing(&arg) {
        true => arg.env(None::<&str>),
        false => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

impl Task {
    fn run(self) -> Result<()> {
        icd::kernel::check_instruction_set()?;
        match self {
            Self::Command(parsed) => parsed.run(),
            Self::Sweep(sweep) => sweep.run(),
        }
    }
}

impl Parsed {
    fn run(self) -> Result<()> {
        let own = self.matches.subcommand().map(|(_, own)| own);
        match self.verb {
            Verb::Edit(args) => args.run(self.settings),
            Verb::Invert(args) => args.run(),
            Verb::Generate(args) => args.run(self.settings),
            Verb::Batch(args) => args.run(&self.command, own.unwrap_or(&self.matches)),
            Verb::Metrics(args) => args.run(),
            Verb::Eval(args) => args.run(&self.command, own.unwrap_or(&self.matches)),
            Verb::Distill(args) => args.run(),
            Verb::Inspect(args) => args.run(),
            Verb::Model(args) => args.run(),
            Verb::Completions(args) => args.run(),
            Verb::Man(args) => args.run(),
        }
    }
}

/// Whether the command line is at fault, rather than the system or a file.
fn is_usage(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Error::Setting { .. } | Error::Prompt { .. })
    )
}

/// An error and its contexts on one line; the library's settings as flags.
fn in_flags(error: &anyhow::Error) -> String {
    let line = |error: &(dyn std::error::Error + 'static)| match error.downcast_ref() {
        Some(Error::Setting {
            setting: Some(setting),
            reason,
        }) => {
            format!("--{}: {reason}", setting.to_string().replace(' ', "-"))
        }
        Some(full @ Error::OutOfMemory { .. }) => format!(
            "{full}: --low-memory, --dtype f16, a smaller --size and, in edits, a smaller \
             --max-rows need less"
        ),
        _ => match error.downcast_ref() {
            Some(error) => reason_of(error),
            None => error.to_string(),
        },
    };
    let mut lines: Vec<_> = error.chain().map(line).collect();
    lines.dedup_by(|cause, error| error.contains(&**cause));
    lines.join(": ")
}

#[cfg(test)]
mod tests {
    use icd::error::DeviceMemory;

    use super::*;

    #[test]
    fn a_gpu_without_memory_is_told_with_numbers_and_flags() {
        let (free, total) = (1 << 29, 8 << 30);
        let memory = Some(DeviceMemory { free, total });
        let told = in_flags(&anyhow::Error::from(Error::OutOfMemory { memory }).context("a.png"));
        let expected = "a.png: the GPU is out of memory (0.5 of 8.0 GiB are free): --low-memory, ";
        assert!(told.starts_with(expected), "{told}");
        assert!(told.contains("--max-rows"), "{told}");
    }
}
