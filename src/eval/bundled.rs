//! Edits of scenes of the world that the bundled model knows: their true results are known.

use std::{fs, path::Path};

use rayon::prelude::*;

use super::{
    Area, Sample,
    world::{HELD_OUT, Pair, Scene, Wording, dice},
};
use crate::error::{Error, Result};

/// The number of pairs, as in the tables of the bundled model.
pub const COUNT: u64 = 300;
/// The number of scenes that are reconstructed there.
pub const SCENES: u64 = 200;

/// The seed of the noise that scene `index` starts from.
pub fn noise_seed(index: u64) -> u64 {
    0xD1CE + index
}

/// The first `count` pairs; their pictures are those that [`write()`] writes into a folder.
pub fn samples(count: u64, folder: &Path) -> Vec<Sample> {
    (0..count).map(|index| sample(index, folder)).collect()
}

fn sample(index: u64, folder: &Path) -> Sample {
    let pair = Pair::numbered(Pair::SEED, index);
    let (source_prompt, target_prompt) = pair.captions();
    let name = format!("{index:04}.png");
    Sample {
        key: format!("{index:04}"),
        kind: pair.change.name().into(),
        image: folder.join(&name),
        result: name.into(),
        source_prompt,
        target_prompt,
        words: pair.words(),
        area: Area::Truth,
        seed: Some(noise_seed(index)),
        truth: Some(Box::new(pair)),
    }
}

/// Scenes to be reconstructed, the first `count` of those that no training has.
pub fn scenes(count: u64, folder: &Path) -> Vec<Sample> {
    let scene = |index: u64| {
        let caption = Wording::PLAIN.caption(&held_out(index));
        let name = format!("scene-{index:04}.png");
        Sample {
            key: format!("{index:04}"),
            kind: "reconstruction".into(),
            image: folder.join(&name),
            result: name.into(),
            source_prompt: caption.clone(),
            target_prompt: caption,
            words: None,
            area: Area::Untold,
            seed: Some(noise_seed(index)),
            truth: None,
        }
    };
    (0..count).map(scene).collect()
}

fn held_out(index: u64) -> Scene {
    Scene::any(&mut dice(HELD_OUT, index))
}

/// Writes the pictures of these samples, which are the first ones, where they are missing.
///
/// The threads are its own: a program may start those of the library later, as many as it likes.
pub fn write(samples: &[Sample]) -> Result<()> {
    let write = || {
        let numbered = samples.par_iter().enumerate();
        let missing = numbered.filter(|(_, sample)| !sample.image.exists());
        missing.try_for_each(|(index, sample)| drawn(index, sample))
    };
    match rayon::ThreadPoolBuilder::new().build() {
        Ok(pool) => pool.install(write),
        Err(_) => write(),
    }
}

/// Writes the picture of sample `index`.
fn drawn(index: usize, sample: &Sample) -> Result<()> {
    let scene = match &sample.truth {
        Some(pair) => pair.source.clone(),
        None => held_out(index as u64),
    };
    if let Some(folder) = sample.image.parent() {
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    scene.render().write(&sample.image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::world::Change;

    #[test]
    fn the_words_of_an_edit_occur_once_in_its_captions() {
        let occurs = |word: &str, caption: &str| {
            let words = caption.split_whitespace();
            words.filter(|found| *found == word).count()
        };
        let mut told = 0;
        for sample in samples(80, Path::new("")) {
            let change = sample.truth.unwrap().change;
            let Some([source, target]) = sample.words else {
                continue;
            };
            told += 1;
            assert!(!matches!(change, Change::Add | Change::Remove));
            assert_eq!(occurs(&source, &sample.source_prompt), 1, "{source}");
            assert_eq!(occurs(&target, &sample.target_prompt), 1, "{target}");
        }
        assert!(told > 50, "of 60 edits of an attribute {told}");
    }
}
