//! True pictures of the world.

use std::{
    fs::{self, File},
    io::Write,
};

use anyhow::{Result, anyhow};
use icd::picture::{Picture, Size, sheet::sheet};
use rayon::prelude::*;
use serde_json::json;

use super::{
    Options,
    drawn::Drawn,
    world::{HELD_OUT, Pair, SIDE, Scene, Wording, dice},
};

/// Rows and columns of the sheet of scenes.
const SHEET: (u64, u64) = (5, 6);
/// Edits on their sheet.
const EDITS: u64 = 10;
/// Pictures that the distillations learn from.
const PICTURES: usize = 10_000;

/// Draws `scene.png` of the caption, or the sheets `scenes.png` and `edits.png`: before,
/// after, and what differs.
pub(crate) fn sheets(options: &Options) -> Result<()> {
    fs::create_dir_all(&options.out)?;
    if let Some(caption) = &options.caption {
        let scene: Scene = caption.parse().map_err(|error: String| anyhow!(error))?;
        scene.render().write(&options.out.join("scene.png"))?;
        return Ok(());
    }
    let (rows, columns) = SHEET;
    let row = |row| (0..columns).map(move |i| scene(HELD_OUT, row * columns + i).0.render());
    let rows: Vec<Vec<_>> = (0..rows).map(|i| row(i).collect()).collect();
    sheet(&rows)?.write(&options.out.join("scenes.png"))?;
    let edits: Vec<_> = (0..EDITS).map(edit).collect::<Result<_>>()?;
    let across = |i: usize| edits.iter().map(|edit| edit[i].clone()).collect();
    let edits: Vec<Vec<_>> = (0..3).map(across).collect();
    sheet(&edits)?.write(&options.out.join("edits.png"))?;
    Ok(())
}

fn edit(index: u64) -> Result<[Picture; 3]> {
    let pair = Pair::numbered(Pair::SEED, index);
    let (before, after) = pair.captions();
    println!("{}:\n  {before}\n  {after}", pair.change.name());
    let (before, after) = (pair.source.render(), pair.target.render());
    let mask = Pair::mask(&before, &after);
    let bytes = mask
        .iter()
        .flat_map(|&here| [if here { 255 } else { 0 }; 3]);
    let mask = Picture::new(Size::new(SIDE, SIDE), bytes.collect())?;
    Ok([before, after, mask])
}

/// Writes the folder `pictures` with a `metadata.jsonl`.
pub(crate) fn captioned(options: &Options) -> Result<()> {
    let (drawn, folder) = (Drawn::open(options)?, options.out.join("pictures"));
    let indices = 0..PICTURES.min(drawn.count());
    fs::create_dir_all(&folder)?;
    let name = |index| format!("{index:06}.png");
    indices.clone().into_par_iter().try_for_each(|index| {
        let picture = drawn.picture(index);
        picture.write(&folder.join(name(index)))
    })?;
    let mut list = File::create(folder.join("metadata.jsonl"))?;
    for index in indices {
        let text = scene(options.seed, index as u64).1;
        let line = json!({ "file_name": name(index), "text": text });
        writeln!(list, "{line}")?;
    }
    Ok(())
}

/// A scene and its caption.
fn scene(seed: u64, index: u64) -> (Scene, String) {
    let mut dice = dice(seed, index);
    let scene = Scene::any(&mut dice);
    let caption = Wording::any(&mut dice).caption(&scene);
    (scene, caption)
}
