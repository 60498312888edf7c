//! Makes the bundled model `shapes` from nothing: a world of toy scenes, an
//! autoencoder, a text encoder and a UNet.
//!
//! ```text
//! cargo run --release --example shapes -- --out DIR
//! ```
//!
//! Every stage keeps its state in a folder of its own below DIR: stopped at any
//! moment, the same command goes on where it was. The same seed gives the same
//! model.

#![expect(clippy::print_stdout, reason = "it tells what it measured")]

mod autoencoder;
mod base;
mod bundle;
mod configs;
mod export;
mod look;
mod scenes;
mod tokenizer;
mod words;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use icd::{
    distill::{GradientAccumulation, Run, Trainer},
    eval::world,
    nn::Placement,
};
use indicatif::{ProgressBar, ProgressStyle};

/// Makes the model `shapes` from nothing.
#[derive(Parser)]
pub(crate) struct Options {
    /// The folder of the stages and of the finished model
    #[arg(long)]
    out: PathBuf,
    /// The same seed gives the same model
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only this stage
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// Train nothing: draw what the stages have learnt so far
    #[arg(long)]
    look: bool,
    /// Train nothing: write what all stages made as the folder of the program
    #[arg(long)]
    bundle: bool,
    /// Threads; all cores by default
    #[arg(long)]
    threads: Option<usize>,
}

/// The stages of the making, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// The autoencoder
    Vae,
    /// The text encoder
    Words,
    /// The text encoder and the UNet
    Base,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Vae => "vae",
            Self::Words => "words",
            Self::Base => "base",
        }
    }

    fn run(self, options: &Options, steps: usize) -> Run {
        Run {
            folder: options.out.join(self.name()),
            steps,
            save_every: 200,
            sample_every: 0,
        }
    }

    /// The file of the weights and the optimiser's moments.
    fn state(self, options: &Options) -> PathBuf {
        self.run(options, 0).state_file()
    }

    fn make(self, options: &Options) -> Result<()> {
        match self {
            Self::Vae => autoencoder::make(options),
            Self::Words => words::make(options),
            Self::Base => base::make(options),
        }
    }

    fn look(self, options: &Options) -> Result<()> {
        match self {
            Self::Vae => look::autoencoder(options),
            Self::Words => words::look(options),
            Self::Base => look::teacher(options),
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
    }
    let stages = Stage::value_variants().iter();
    if options.bundle {
        return bundle::write(&options);
    }
    let wanted = stages.filter(|stage| options.stage.is_none_or(|only| only == **stage));
    wanted.copied().try_for_each(|stage| match options.look {
        true => stage.look(&options),
        false => stage.make(&options),
    })
}

/// Trains a stage with a bar that shows what it configs.
fn train(options: &Options, stage: Stage, steps: usize, trainer: &mut dyn Trainer) -> Result<()> {
    let run = stage.run(options, steps);
    let style = "{prefix} {bar:30} {pos}/{len} {elapsed} left {eta} {msg}";
    let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(style)?);
    bar.set_prefix(stage.name());
    run.go(trainer, &mut |progress| {
        if progress.metrics.is_empty() {
            bar.set_position(progress.done as u64);
            bar.reset_eta();
        }
        let shown = progress
            .metrics
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"));
        bar.set_message(shown.collect::<Vec<_>>().join(" "));
        bar.set_position(progress.done as u64);
        Ok(())
    })?;
    bar.finish();
    Ok(())
}

/// Small networks learn fastest on a CPU.
fn storage() -> Placement {
    Placement::cpu_f32()
}

/// Rows that a thread learns at once: few enough that what they leave fits its
/// cache.
const ROWS: usize = 4;

/// The networks are too small to keep several threads busy with one operation,
/// so every thread learns rows of its own.
fn accumulation(batch: usize) -> Result<GradientAccumulation> {
    let threads = rayon::current_num_threads();
    Ok(GradientAccumulation::new(batch, batch / ROWS, threads)?)
}
