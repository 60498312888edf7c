//! The command line: one module per command. Only this module prints, picks a device
//! or reads the environment, except as the library's documentation states.

mod args;
mod canvas;
mod commands;
mod interrupt;
mod inversion;
mod picture;
mod settings;
mod threads;
mod ui;

use std::{env, process::ExitCode};

use anyhow::Result;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use icd::Error;

use commands::{completions, distill, edit, generate, inspect, invert, model as models};
use settings::Settings;
use ui::console::Console;

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
}

const EXAMPLES: &str = "\
Examples:
  icd edit --image in.png --src-prompt \"a photo of a bird\" --tgt-prompt \"a photo of a lego bird\"
  icd generate --prompt \"a cute owl\" --seed 7 -o owl.png";

#[derive(Subcommand)]
enum Verb {
    /// Edit a picture, given a prompt that describes it and one for the result.
    Edit(Box<edit::EditArgs>),
    /// Invert a picture to noise, to reuse for several edits.
    Invert(Box<invert::InvertArgs>),
    /// Generate a picture from a prompt.
    Generate(Box<generate::GenerateArgs>),
    /// Train an iCD model: distil guidance into a UNet, then train its two LoRA adapters.
    Distill(distill::DistillArgs),
    /// Describe a picture, a weights file or a model folder.
    Inspect(inspect::InspectArgs),
    /// List, fetch, verify and convert models.
    Model(models::ModelsArgs),
    /// Print a shell completion script.
    Completions(completions::CompletionsArgs),
    /// Print the manual page.
    Man(completions::ManArgs),
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

/// Runs the program: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
pub(crate) fn run() -> ExitCode {
    let listening = interrupt::end_at_ctrl_c();
    match listening
        .and_then(|()| parsed())
        .and_then(|(verb, settings)| verb.run(settings))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::console::log_line(&format!("error: {}", in_flags(&error)));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// The parsed command, completed with the settings of the `--from` file.
fn parsed() -> Result<(Verb, Settings)> {
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
        _ => error.to_string(),
    };
    let lines: Vec<_> = error.chain().map(line).collect();
    lines.join(": ")
}
