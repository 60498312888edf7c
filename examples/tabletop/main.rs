//! Makes the model `tabletop` from nothing, on pictures of `icd::eval::world`: an autoencoder,
//! a text encoder and a UNet.
//!
//! ```text
//! cargo run --release --example tabletop -- --out DIR
//! ```
//!
//! Every stage keeps its state in a folder of its own below DIR: stopped at any moment, the
//! same command goes on where it was. A finished stage leaves its weights in DIR/weights; a
//! stage whose weights are there is not trained. The same seed gives the same model.

#![expect(clippy::print_stdout, reason = "it tells what it measured")]

mod autoencoder;
mod base;
mod bundle;
mod configs;
mod draw;
mod drawn;
mod export;
mod grounding;
mod hiding;
mod look;
mod scenes;
mod stage;
mod tokenizer;
mod words;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use icd::eval::world;
use stage::Stage;

/// Makes the model `tabletop` from nothing.
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
    /// What to do
    #[arg(long, value_enum, default_value_t = Task::Train)]
    task: Task,
    /// The scene that `draw` draws; held-out ones by default
    #[arg(long)]
    caption: Option<String>,
    /// Scenes that are drawn to learn from
    #[arg(long, default_value_t = 30_000)]
    scenes: usize,
    /// Threads; all cores by default
    #[arg(long)]
    threads: Option<usize>,
}

/// What is done with the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Train what is not trained yet
    Train,
    /// Measure and draw what the stages have learnt so far
    Look,
    /// Write what all stages made as the folder of the program
    Bundle,
    /// Write true pictures: of a caption, or of scenes and of edits with their masks
    Draw,
    /// Write 10000 captioned pictures, as `icd distill` reads them
    Pictures,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(threads) = options.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global()?;
    }
    match options.task {
        Task::Train => options.stages().try_for_each(|stage| stage.make(&options)),
        Task::Look => options.stages().try_for_each(|stage| stage.look(&options)),
        Task::Bundle => bundle::write(&options),
        Task::Draw => draw::sheets(&options),
        Task::Pictures => draw::captioned(&options),
    }
}

impl Options {
    /// The stages that are asked for, in their order.
    fn stages(&self) -> impl Iterator<Item = Stage> {
        let stages = Stage::value_variants().iter().copied();
        stages.filter(|stage| self.stage.is_none_or(|only| only == *stage))
    }
}
