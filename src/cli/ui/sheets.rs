//! Pictures that show what an edit did: a comparison, and attention maps.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    Error,
    control::AttentionStore,
    io::Existing,
    picture::{Picture, Size, label::gallery},
    pipeline::Edited,
    prompt::Prompt,
};

use crate::cli::{args::output::numbered, picture};

/// Heat maps per row.
const ACROSS: usize = 4;

/// An edit with its pictures, all of one size.
pub(crate) struct Shown<'a> {
    pub(crate) edited: &'a Edited,
    /// The input picture at the working size, if any.
    pub(crate) photo: Option<Picture>,
    /// The reconstruction of the source during the edit, if needed.
    pub(crate) source: Option<Picture>,
    pub(crate) targets: Vec<Picture>,
}

impl Shown<'_> {
    /// Source, reconstruction and edits side by side, with captions.
    pub(crate) fn comparison(&self) -> Result<Picture> {
        let text = |prompt: &Prompt| prompt.text().to_owned();
        let prompts = &self.edited.prompts;
        let photo = self.photo.iter().zip(prompts);
        let photo = photo.map(|(photo, prompt)| (photo, format!("source: {}", text(prompt))));
        let source = self.source.iter();
        let source = source.map(|source| (source, "reconstruction".to_owned()));
        let targets = self.targets.iter().zip(&prompts[1..]);
        let targets = targets.map(|(target, prompt)| (target, format!("edit: {}", text(prompt))));
        let all = photo.chain(source).chain(targets);
        let all: Vec<_> = all.map(|(shown, label)| (shown.clone(), label)).collect();
        Ok(gallery(&all, all.len())?)
    }

    /// Writes a sheet of attention maps for each prompt, with a heat map per word.
    pub(crate) fn write_attention(&self, folder: &Path, existing: Existing) -> Result<()> {
        let Some(store) = &self.edited.attention else {
            return Ok(());
        };
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let rows = self.source.iter().chain(&self.targets);
        let prompts = self.edited.prompts.iter();
        let files = files(folder, self.targets.len());
        for (row, ((shown, prompt), file)) in rows.zip(prompts).zip(files).enumerate() {
            let panels = panels(store, row, prompt, shown)?;
            if !panels.is_empty() {
                picture::write(&gallery(&panels, ACROSS)?, &file, None, existing)?;
            }
        }
        Ok(())
    }
}

/// The files of the attention sheets, the source's first.
pub(crate) fn files(folder: &Path, targets: usize) -> Vec<PathBuf> {
    let target = folder.join("target.png");
    let targets = (1..=targets).map(|i| numbered(&target, i, targets));
    [folder.join("source.png")]
        .into_iter()
        .chain(targets)
        .collect()
}

/// A heat map for every word that was not truncated.
fn panels(
    store: &AttentionStore,
    row: usize,
    prompt: &Prompt,
    shown: &Picture,
) -> Result<Vec<(Picture, String)>> {
    let mut panels = Vec::new();
    for word in prompt.words() {
        let tokens: Vec<_> = word.tokens.clone().collect();
        if let Some(map) = store.at(row, &tokens)?.filter(|_| !tokens.is_empty()) {
            panels.push((heated(shown, &map)?, word.text.clone()));
        }
    }
    Ok(panels)
}

fn heated(shown: &Picture, map: &Tensor) -> Result<Picture> {
    let (height, width) = map.dims2()?;
    let values: Vec<f32> = map.flatten_all()?.to_vec1()?;
    Ok(shown.heated(&values, Size::new(width, height))?)
}
