//! The command line: arguments as typed, one module per verb. This is the only
//! place that prints, reads the environment or picks a device.

mod alone;
mod console;
mod distill;
mod edit;
mod generate;
mod invert;
mod model;
mod picture;
mod values;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use icd::Error;

use console::Console;

/// Edits real pictures with two prompts: invertible Consistency Distillation on
/// Stable Diffusion 1.5 and SDXL.
///
/// A picture is carried into noise under a prompt that says what it shows, and
/// back under a prompt that says what it should show, in three or four steps
/// each. There is no safety checker: what the weights can draw, this draws.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
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

/// Runs the program: 0 done, 1 failed, 2 wrong usage.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Edit(args) => args.run(),
        Verb::Invert(args) => args.run(),
        Verb::Generate(args) => args.run(),
        Verb::Distill(args) => args.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&format!("error: {error:#}"));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
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
