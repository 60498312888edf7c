//! A photo on its way into noise: the same for `icd invert` and `icd edit`.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Result;
use icd::{
    edit::invert,
    latents::{Cache, Latents},
    model::Model,
    picture::{Picture, fit::Canvas},
};

use super::{Console, output::check_folder};

/// What is inverted, and how.
pub(super) struct Inversion<'a> {
    pub(super) model: &'a Model,
    pub(super) photo: &'a Picture,
    /// The photo as it is worked on.
    pub(super) placed: Picture,
    pub(super) canvas: Canvas,
    pub(super) prompt: &'a str,
    pub(super) seed: u64,
}

impl Inversion<'_> {
    /// Carries the photo into noise.
    pub(super) fn run(&self, console: &mut Console) -> Result<Latents> {
        let (model, prompt) = (self.model, self.prompt.to_owned());
        let picture = self.placed.to_tensor(model.device())?;
        let latent = invert(model, &picture, self.prompt, self.seed, &mut |moment| {
            console.see(moment);
        })?;
        Ok(Latents {
            latent,
            prompt,
            model: model.identity()?,
            notes: self.notes()?,
        })
    }

    /// The same from a folder of earlier inversions, if it has this one, and
    /// else kept there. A run that dumps every value takes none from there.
    pub(super) fn cached(
        &self,
        folder: Option<&PathBuf>,
        console: &mut Console,
    ) -> Result<Latents> {
        let Some(folder) = folder else {
            return self.run(console);
        };
        let cache = Cache::new(folder);
        let file = cache.file(self.model, &self.placed, self.prompt, self.seed)?;
        if !console.dumps()
            && let Some(found) = cache.get(&file)
        {
            console.note(&format!("inversion: {}", file.display()));
            return Ok(found);
        }
        if folder.exists() {
            check_folder(folder)?; // before the work
        }
        let inverted = self.run(console)?;
        cache.put(&file, &inverted)?;
        Ok(inverted)
    }

    fn notes(&self) -> Result<HashMap<String, String>> {
        let notes = [
            ("seed", self.seed.to_string()),
            ("forward_path", self.model.forward_path()?.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_string()),
        ];
        let notes = notes.map(|(key, value)| (key.to_owned(), value));
        let placing = Latents::placing_notes(self.canvas, self.photo.size());
        Ok(notes.into_iter().chain(placing).collect())
    }
}
