//! The command line: arguments as typed, one module per verb. This is the only
//! place that prints, reads the environment or picks a device.

mod alone;
mod console;
mod control;
mod device;
mod distill;
mod dry_run;
mod edit;
mod frame;
mod generate;
mod inspect;
mod interrupt;
mod inversion;
mod invert;
mod model;
mod models;
mod output;
mod pages;
mod picture;
mod prompts;
mod settings;
mod show;
mod values;
mod weights;

use std::{env, process::ExitCode};

use anyhow::Result;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use icd::Error;

use console::Console;
use settings::Settings;

/// Edits real pictures with two prompts: invertible Consistency Distillation on
/// Stable Diffusion 1.5 and SDXL.
///
/// A picture is carried into noise under a prompt that says what it shows, and
/// back under a prompt that says what it should show, in three or four steps
/// each. There is no safety checker: what the weights can draw, this draws.
#[derive(Parser)]
#[command(version, bin_name = "icd", max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  icd edit --image in.png --src-prompt \"a photo of a bird\" --tgt-prompt \"a photo of a lego bird\"
  icd generate --prompt \"a cute owl\" --seed 7 -o owl.png";

#[derive(Subcommand)]
enum Verb {
    /// Edit a picture: what is there, what should be there.
    Edit(Box<edit::EditArgs>),
    /// Carry a picture into noise, for several edits later.
    Invert(Box<invert::InvertArgs>),
    /// Draw a new picture from a prompt.
    Generate(Box<generate::GenerateArgs>),
    /// Make such a model: teach a UNet guidance, then two adapters the walk.
    Distill(distill::DistillArgs),
    /// Tell what a picture, a file of weights or a model folder holds.
    Inspect(inspect::InspectArgs),
    /// Models on this machine: which there are, fetch, check and convert them.
    Model(models::ModelsArgs),
    /// Print a script that completes icd's words in a shell.
    Completions(pages::CompletionsArgs),
    /// Print the manual page.
    Man(pages::ManArgs),
}

/// What every verb says, and how.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Reports")]
struct ReportArgs {
    /// Print one JSON object per result instead of its file name.
    #[arg(long)]
    json: bool,
    /// Say nothing but errors on stderr.
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell what is loaded and how often the network was evaluated.
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the program: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
pub(crate) fn run() -> ExitCode {
    let listening = interrupt::end_at_ctrl_c();
    match listening
        .and_then(|()| asked())
        .and_then(|(verb, settings)| verb.run(settings))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&format!("error: {error:#}"));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// What was typed, completed by the settings of the file that `--from` names.
fn asked() -> Result<(Verb, Settings)> {
    let typed: Vec<_> = env::args_os().collect();
    let matches = Cli::command().get_matches_from(&typed);
    let typed = match matches.subcommand() {
        Some((verb, own)) => settings::completed(typed, verb, own)?,
        None => typed,
    };
    let command = Cli::command();
    let matches = command.clone().get_matches_from(typed);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let settings = matches.subcommand().and_then(|(verb, own)| {
        let command = command.find_subcommand(verb)?;
        Some(Settings::of(verb, command, own))
    });
    Ok((cli.verb, settings.unwrap_or_default()))
}

impl Verb {
    fn run(self, settings: Settings) -> Result<()> {
        match self {
            Self::Edit(args) => args.run(settings),
            Self::Invert(args) => args.run(),
            Self::Generate(args) => args.run(settings),
            Self::Distill(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Model(args) => args.run(),
            Self::Completions(args) => args.run(),
            Self::Man(args) => args.run(),
        }
    }
}

/// Whether the person, not the machine or a file, is to change something.
fn is_usage(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Error::Setting(_) | Error::Prompt { .. })
    )
}

/// Gives the work `threads` threads, all cores where none are named.
fn set_threads(threads: Option<usize>) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build_global().map_err(anyhow::Error::from)
}
