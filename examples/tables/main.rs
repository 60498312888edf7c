//! Measures what a model of the bundled world can do, on scenes that it never saw, and writes
//! it down: a page of tables, the curve of tau, a strip of edits, a sheet of settings.
//!
//! ```text
//! cargo run --release --example tables -- --out DIR
//! ```
//!
//! Every figure is the mean over the scenes of the seeds that the page names.

mod ablations;
mod bench;
mod edits;
mod figure;
mod generation;
mod inversion;
mod page;
mod settings;
mod strip;

use std::{fs, path::PathBuf};

use anyhow::Result;
use candle_core::DType;
use clap::Parser;
use icd::eval::world;

use bench::Bench;
use page::Page;

/// Measures what a model of the bundled world can do.
#[derive(Parser)]
struct Options {
    /// The folder to write: tables.md, tau.svg, strip.jpg, settings.jpg
    #[arg(long)]
    out: PathBuf,
    /// The model
    #[arg(long, default_value = "tabletop")]
    model: String,
    /// How the weights are stored: f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// A folder of other adapter pairs to invert with, a folder each
    #[arg(long)]
    ablations: Option<PathBuf>,
    /// Scenes that are inverted
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    scenes: u64,
    /// Pairs that are edited, and captions that are drawn
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(8..))]
    pairs: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    fs::create_dir_all(&options.out)?;
    let bench = Bench::open(&options.model, options.dtype)?;
    let mut page = Page::new(&options.model, options.scenes, options.pairs);
    inversion::measure(&bench, &options, &mut page)?;
    edits::measure(&bench, options.pairs, &mut page)?;
    generation::measure(&bench, options.pairs, &mut page)?;
    strip::draw(&bench, &options.out.join("strip.jpg"), &mut page)?;
    settings::draw(&bench, &options.out.join("settings.jpg"))?;
    page.write(&options.out.join("tables.md"))
}
