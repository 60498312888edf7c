//! The pictures of the scenes that are learnt from. They are drawn once: that takes longer than
//! to learn from them.

use std::{collections::HashMap, ops::Range};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use icd::{
    io::{Checkpoint, Existing, write_tensors},
    picture::{Picture, Size},
};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::{
    Options,
    world::{SIDE, Scene, dice},
};

/// The name of the pictures in their file.
const PICTURES: &str = "pictures";
/// Bytes of a picture, and of one row of its pixels.
const BYTES: usize = SIDE * ROW;
const ROW: usize = 3 * SIDE;

/// The pictures of the scenes of a seed.
pub(crate) struct Drawn {
    /// (count, SIDE, SIDE, 3).
    bytes: Vec<u8>,
    seed: u64,
}

impl Drawn {
    /// The pictures from their file, `drawn.safetensors`; they are drawn if there is none.
    pub(crate) fn open(options: &Options) -> Result<Self> {
        let file = options.out.join("drawn.safetensors");
        let seed = options.seed;
        if !file.exists() {
            let bytes = drawn(options)?;
            let shape = (options.scenes, SIDE, SIDE, 3);
            let pictures = Tensor::from_vec(bytes, shape, &Device::Cpu)?;
            let tensors = vec![(PICTURES.to_owned(), pictures)];
            write_tensors(&file, &tensors, HashMap::new(), Existing::Replace)?;
        }
        let bytes = Checkpoint::open(&file)?.load(PICTURES, &Device::Cpu)?;
        let bytes = bytes.flatten_all()?.to_vec1()?;
        ensure!(
            bytes.len() == options.scenes * BYTES,
            "{}: draw {} pictures anew",
            file.display(),
            options.scenes
        );
        Ok(Self { bytes, seed })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.bytes.len() / BYTES
    }

    /// What a picture shows.
    pub(crate) fn scene(&self, index: usize) -> Scene {
        scene(self.seed, index)
    }

    /// A whole picture.
    pub(crate) fn picture(&self, index: usize) -> Picture {
        self.part(index, (0, 0), SIDE)
    }

    /// The square of a picture from this pixel (column, row) on.
    pub(crate) fn part(&self, index: usize, (left, top): (usize, usize), side: usize) -> Picture {
        let picture = &self.bytes[index * BYTES..][..BYTES];
        let columns: Range<usize> = 3 * left..3 * (left + side);
        let rows = picture.chunks(ROW).skip(top).take(side);
        let bytes = rows.flat_map(|row| &row[columns.clone()]).copied();
        Picture::new(Size::new(side, side), bytes.collect()).expect("three bytes for each pixel")
    }
}

fn scene(seed: u64, index: usize) -> Scene {
    Scene::any(&mut dice(seed, index as u64))
}

/// The bytes of all pictures.
fn drawn(options: &Options) -> Result<Vec<u8>> {
    let style = ProgressStyle::with_template("draw {bar:30} {pos}/{len} {elapsed} left {eta}")?;
    let bar = ProgressBar::new(options.scenes as u64).with_style(style);
    let mut bytes = vec![0; options.scenes * BYTES];
    let pictures = bytes.par_chunks_mut(BYTES).enumerate();
    pictures.for_each(|(index, bytes)| {
        bytes.copy_from_slice(scene(options.seed, index).render().pixels());
        bar.inc(1);
    });
    bar.finish();
    Ok(bytes)
}
