//! The inversion of a picture, for `icd invert` and `icd edit`.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Result;
use icd::{
    diffusion::Inverted,
    pipeline::{InversionCache, Invert, Latents, Pipeline},
};

use super::{Console, canvas::Placed};

/// The input and settings of an inversion.
pub(crate) struct Inversion<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) placed: &'a Placed<'a>,
    pub(crate) invert: Invert,
}

impl Inversion<'_> {
    /// Inverts the picture.
    pub(crate) fn run(&self, console: &mut Console) -> Result<Latents> {
        let model = self.pipeline.model();
        let picture = self.placed.picture.to_tensor(model.device())?;
        self.latents(self.pipeline.invert_by(&self.invert, &picture, console)?)
    }

    /// The inverted picture with all that its file states.
    pub(crate) fn latents(&self, inverted: Inverted) -> Result<Latents> {
        Ok(Latents {
            method: self.invert.method.clone(),
            inverted,
            prompt: self.invert.prompt.clone(),
            model: self.pipeline.model().identity()?,
            notes: self.notes()?,
        })
    }

    /// The same, reusing an earlier inversion from a cache folder, or else
    /// storing it there. A run that dumps every value does not read the cache.
    pub(crate) fn cached(
        &self,
        folder: Option<&PathBuf>,
        console: &mut Console,
    ) -> Result<Latents> {
        let Some(folder) = folder else {
            return self.run(console);
        };
        let cache = InversionCache::new(folder);
        let model = self.pipeline.model();
        let (picture, method) = (&self.placed.picture, &self.invert.method);
        let file = cache.file(model, picture, &self.invert)?;
        if !console.dumps()
            && let Some(found) = cache.get(&file, model, (picture, method))
        {
            console.note(&format!("inversion: {}", file.display()));
            // Another photo may look the same at this size, and another method invert like this.
            return self.latents(found.inverted);
        }
        let inverted = self.run(console)?;
        if let Err(error) = cache.put(&file, &inverted) {
            console.warn(&format!("the inversion cannot be kept: {error}"));
        }
        Ok(inverted)
    }

    fn notes(&self) -> Result<HashMap<String, String>> {
        let Invert { method, seed, .. } = &self.invert;
        let timesteps = method.forward_timesteps(self.pipeline.model())?;
        let notes = [
            ("seed", seed.to_string()),
            ("forward_timesteps", timesteps.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_string()),
        ];
        let notes = notes.map(|(key, value)| (key.to_owned(), value));
        let photo = Latents::photo_notes(self.placed.canvas, self.placed.photo);
        Ok(notes.into_iter().chain(photo).collect())
    }
}
