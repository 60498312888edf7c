//! A folder of pictures: a caption `NAME.txt` beside each, what its edit should show in
//! `NAME.target.txt` or by words that are replaced, and perhaps a mask `NAME.mask.png`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Area, Sample};
use crate::{
    batch::{Disk, Replacement, jobs_of_folder},
    error::{Error, Result},
    io::Source,
};

/// The kind of all edits.
const KIND: &str = "edit";

/// Reads a folder of edits.
pub fn read(folder: &Path, replacements: &[Replacement]) -> Result<Vec<Sample>> {
    samples(folder, &|image, caption| {
        let target = image.with_extension("target.txt");
        if target.is_file() {
            return Ok(Source::from(&target).text()?.trim().to_owned());
        }
        if replacements.is_empty() {
            let reason = "what the edit should show is missing: write it there, or replace words \
                          of all captions";
            return Err(Error::config(target, reason));
        }
        Replacement::all(replacements, caption)
    })
}

/// Reads a folder of pictures with captions, each its own target.
pub fn captions(folder: &Path) -> Result<Vec<Sample>> {
    samples(folder, &|_, caption| Ok(caption.to_owned()))
}

/// The target prompt of a picture with a caption.
type Target<'a> = &'a dyn Fn(&Path, &str) -> Result<String>;

fn samples(folder: &Path, target: Target) -> Result<Vec<Sample>> {
    let sample = |entry: crate::batch::Entry| {
        let job = entry
            .content
            .map_err(|fault| Error::config(folder, fault.reason))?;
        let text = |key: &str| job.get(key).and_then(Value::as_str);
        let image = PathBuf::from(text("image").unwrap_or_default());
        let source_prompt = text("src_prompt").unwrap_or_default().to_owned();
        let target_prompt = target(&image, &source_prompt)?;
        let mask = text("mask").map(PathBuf::from);
        let stem = image.file_stem().unwrap_or_default();
        let key = stem.to_string_lossy().into_owned();
        Ok(Sample {
            result: format!("{key}.png").into(),
            key,
            kind: KIND.into(),
            image,
            source_prompt,
            target_prompt,
            words: None,
            area: mask.map_or(Area::Untold, Area::File),
            seed: None,
            truth: None,
        })
    };
    let samples = jobs_of_folder(&Disk, folder)?.into_iter().map(sample);
    distinct(folder, samples.collect::<Result<_>>()?)
}

/// The samples, no two of which have one name: `a.png` and `a.jpg` would have one result.
fn distinct(folder: &Path, samples: Vec<Sample>) -> Result<Vec<Sample>> {
    let twice = samples.windows(2).find(|pair| pair[0].key == pair[1].key);
    match twice {
        Some(pair) => {
            let reason = format!("two pictures are called {:?}: rename one", pair[0].key);
            Err(Error::config(folder, reason))
        }
        None => Ok(samples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_files_or_captions_in_other_words() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        for name in ["a.png", "b.png", "b.mask.png"] {
            write(name, "x");
        }
        write("a.txt", "a bird");
        write("b.txt", "a bird");
        write("a.target.txt", "a dog\n");
        let error = read(home.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("b.target.txt"), "{error}");
        let samples = read(home.path(), &["bird=cat".parse().unwrap()]).unwrap();
        let targets: Vec<_> = samples.iter().map(|one| &one.target_prompt[..]).collect();
        assert_eq!(targets, ["a dog", "a cat"]);
        assert_eq!(samples[1].area, Area::File(home.path().join("b.mask.png")));
        write("a.jpg", "x");
        assert!(read(home.path(), &["bird=cat".parse().unwrap()]).is_err());
    }
}
