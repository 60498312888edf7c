//! Writes pictures of the bundled world with their captions, and pairs of pictures
//! that an edit leads from one to the other.
//!
//! ```text
//! cargo run --release --example scenes -- --seed 1 --count 100 --out DIR
//! ```
//!
//! `DIR/metadata.jsonl` has a line for each picture (`file_name`, `text`), as
//! `icd distill` reads it; `DIR/pairs/metadata.jsonl` one for each edit.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Parser;
use icd::{
    eval::world::{Pair, SIDE, Scene, Wording, dice},
    picture::Picture,
};
use serde_json::json;

/// Writes captioned pictures of the bundled world, and edits with their true results.
#[derive(Parser)]
struct Options {
    /// The same seed gives the same files
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many pictures, and how many pairs
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let pairs = options.out.join("pairs");
    fs::create_dir_all(&pairs).with_context(|| pairs.display().to_string())?;
    pictures(&options)?;
    edits(&options, &pairs)
}

fn pictures(options: &Options) -> Result<()> {
    let mut list = File::create(options.out.join("metadata.jsonl"))?;
    for index in 0..options.count {
        let mut dice = dice(options.seed, index);
        let scene = Scene::any(&mut dice);
        let name = format!("{index:06}.png");
        scene.render().write(&options.out.join(&name))?;
        let text = Wording::any(&mut dice).caption(&scene);
        writeln!(list, "{}", json!({ "file_name": name, "text": text }))?;
    }
    Ok(())
}

fn edits(options: &Options, folder: &Path) -> Result<()> {
    let mut list = File::create(folder.join("metadata.jsonl"))?;
    for index in 0..options.count {
        let pair = Pair::numbered(!options.seed, index);
        let [source, target, mask] =
            ["source", "target", "mask"].map(|part| format!("{index:06}-{part}.png"));
        let (before, after) = (pair.source.render(), pair.target.render());
        before.write(&folder.join(&source))?;
        after.write(&folder.join(&target))?;
        drawn(&Pair::mask(&before, &after))?.write(&folder.join(&mask))?;
        let (src_prompt, tgt_prompt) = pair.captions();
        let line = json!({
            "image": source, "target": target, "mask": mask, "change": pair.change.name(),
            "src_prompt": src_prompt, "tgt_prompt": tgt_prompt,
        });
        writeln!(list, "{line}")?;
    }
    Ok(())
}

/// White where the mask is, black elsewhere.
fn drawn(mask: &[bool]) -> Result<Picture> {
    let bytes = mask
        .iter()
        .flat_map(|&here| [if here { 255 } else { 0 }; 3]);
    let size = icd::picture::Size::new(SIDE, SIDE);
    Ok(Picture::new(size, bytes.collect())?)
}
