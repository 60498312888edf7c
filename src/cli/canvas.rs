//! The input of an edit, and how it is brought to the model's size and back.

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use icd::{
    Error,
    model::Model,
    picture::{Picture, Size, fit::Canvas},
    pipeline::Latents,
};

use super::args::size::SizeArgs;

/// A photo, or an inverted one and the file that holds it.
pub(crate) enum Input {
    Photo(Picture),
    Dump(PathBuf, Latents),
}

/// How a photo is fitted to the model, and the result back to the photo.
pub(crate) struct Frame<'a> {
    /// None for a file of latents.
    photo: Option<&'a Picture>,
    /// The photo as it is worked on.
    placed: Option<Picture>,
    /// How it was placed, and its size; none where a file of latents does not state it.
    placing: Option<(Canvas, Size)>,
    /// Of the latent's values.
    pub(crate) latent: Size,
}

impl<'a> Frame<'a> {
    /// The frame of an input, which is placed as the flags say unless it is
    /// inverted already.
    pub(crate) fn of(input: &'a Input, size: SizeArgs, model: &Model) -> Result<Self> {
        match input {
            Input::Photo(photo) => {
                let (canvas, factor) = (size.canvas(model)?, model.latent_factor()?);
                let worked = canvas.target(photo.size());
                Ok(Self {
                    photo: Some(photo),
                    placed: Some(canvas.place(photo)),
                    placing: Some((canvas, photo.size())),
                    latent: Size::new(worked.width / factor, worked.height / factor),
                })
            }
            Input::Dump(_, latents) => {
                let (_, _, height, width) = latents.latent.dims4()?;
                Ok(Self {
                    photo: None,
                    placed: None,
                    placing: latents.placing(),
                    latent: Size::new(width, height),
                })
            }
        }
    }

    /// Refuses to restore an unknown size.
    pub(crate) fn check_restorable(&self) -> Result<()> {
        match self.placing {
            Some(_) => Ok(()),
            None => bail!(Error::setting(
                "--restore-size: the file does not state the photo's size; invert the photo again"
            )),
        }
    }

    /// Whether the photo is yet to be inverted.
    pub(crate) fn is_photo(&self) -> bool {
        self.photo.is_some()
    }

    /// The photo as it is worked on.
    pub(crate) fn placed(&self) -> Option<&Picture> {
        self.placed.as_ref()
    }

    /// A mask over the photo, of any size, as one of its latent (1, 1, h, w).
    pub(crate) fn latent_mask(&self, mask: &Picture, device: &Device) -> Result<Tensor> {
        let placed = match self.placing {
            Some((canvas, photo)) => canvas.place(&mask.resized(photo)),
            None => mask.clone(),
        };
        Ok(placed.to_mask(self.latent, device)?)
    }

    /// A result in the photo's colours, and back at its size where that is
    /// wanted: over the photo where a part was cut out of it.
    pub(crate) fn finished(&self, result: &Picture, restore_size: bool) -> Picture {
        let restored = match self.placing {
            Some((canvas, photo)) if restore_size => canvas.restore(result, photo),
            _ => result.clone(),
        };
        match self.photo {
            Some(photo) if restore_size => photo.with_in_the_middle(&restored),
            Some(photo) => restored.with_profile_of(photo),
            None => restored,
        }
    }
}
