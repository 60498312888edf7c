//! `icd eval`.

mod editing;
mod evaluation;
mod generation;
mod inversion;
mod made;
mod measured;
mod prompts;
mod results;

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::Result;
use clap::{ArgMatches, Args, Command, Subcommand};
use icd::batch::Shard;

use crate::cli::args::{measure::MeasureArgs, shard::ShardChoice, values::Seed};

/// Measures a model over many pictures: tables, and a report with the pictures behind them.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  icd eval editing tabletop --out out --limit 8
  icd eval inversion tabletop --out back --limit 8";

#[derive(Subcommand)]
enum Verb {
    /// Edit the pictures of a data set and measure what is preserved and what is followed.
    ///
    /// DATA is PIE-Bench (a folder with mapping_file.json and annotation_images, or such a file),
    /// a CSV with file_name, old_caption and edited_caption as in the reference of iCD, a folder
    /// of pictures with NAME.txt and NAME.target.txt (or --replace) and perhaps NAME.mask.png, or
    /// tabletop, the bundled world, whose true edits are known (a folder of that name is
    /// ./tabletop).
    ///
    /// DIR gets the results in pictures/, metrics.json, evaluation_result.csv in the form of
    /// PnPInversion's, and report.html, one file that opens in a browser. The edits run as those
    /// of `icd batch`, and each is measured once: the same command goes on after an interruption,
    /// and several processes can share the work by --shard. Exit codes are those of `icd batch`.
    Editing(Box<editing::EditingArgs>),
    /// Invert pictures and reconstruct them unguided, and measure how close they come.
    ///
    /// DATA as for `icd eval editing`; targets are not needed.
    Inversion(Box<inversion::InversionArgs>),
    /// Generate pictures from a list of prompts and measure their CLIP score.
    ///
    /// There is no FID: its Inception network is published only as a program of TensorFlow and
    /// copies of it, and figures of different copies do not compare.
    Generation(Box<generation::GenerationArgs>),
}

/// The pictures that are inverted.
#[derive(Args)]
struct PicturesArgs {
    /// PIE-Bench, a CSV, a folder of pictures with captions, or tabletop.
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// The folder of the pictures [default: annotation_images beside the mapping file, or the
    /// folder of the CSV].
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Seed of the noise, the same for each picture; tabletop has its own.
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
    /// Most rows (sources and targets) of one network evaluation [default: 8].
    #[arg(long, value_name = "N")]
    max_rows: Option<NonZeroUsize>,
}

/// What every evaluation writes.
#[derive(Args, Clone, Debug)]
struct OutArgs {
    /// The folder of results, tables and the report.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Do a part of the work, K from 1; auto as for `icd batch`. The tables are of all parts that
    /// are done.
    #[arg(long, value_name = "K/N|auto|auto/N")]
    shard: Option<ShardChoice>,
    /// Use the first N only.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The name of this method in tables [default: icd, or that of the folder of --results].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many results the report shows: the worst.
    #[arg(long, value_name = "N", default_value_t = 100)]
    shown: usize,
    /// Replace results in DIR that have other settings.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    measure: MeasureArgs,
}

impl OutArgs {
    /// The part of the work, if it is divided.
    fn shard(&self) -> Result<Option<Shard>> {
        self.shard.map(ShardChoice::shard).transpose()
    }
}

impl EvalArgs {
    /// Evaluates; `command` is that of the program, and `given` what was given to this one.
    pub(crate) fn run(&self, command: &Command, given: &ArgMatches) -> Result<()> {
        let own = command.find_subcommand("eval").unwrap_or(command);
        let (name, given) = given.subcommand().unwrap_or(("", given));
        let own = own.find_subcommand(name).unwrap_or(own);
        match &self.verb {
            Verb::Editing(args) => args.run(command, (own, given)),
            Verb::Inversion(args) => args.run(command, (own, given)),
            Verb::Generation(args) => args.run(command, (own, given)),
        }
    }
}
