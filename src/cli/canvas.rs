//! The input of an edit, and how it is resized to the model's size and back.

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

/// A picture, or the latents of an inverted one with their file.
pub(crate) enum Input {
    Photo(Picture),
    Latents(PathBuf, Latents),
}

/// How a picture is fitted to the model, and the result back to the picture.
pub(crate) struct Frame<'a> {
    /// None for a file of latents.
    photo: Option<&'a Picture>,
    /// The picture at the working size.
    placed: Option<Picture>,
    /// How it was placed, and its size; `None` if a file of latents does not state it.
    placing: Option<(Canvas, Size)>,
    /// The size of the latent.
    pub(crate) latent: Size,
}

impl<'a> Frame<'a> {
    /// The frame of an input, which is placed according to the flags unless it
    /// is already inverted.
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
            Input::Latents(_, latents) => {
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

    /// Fails if the size to restore is unknown.
    pub(crate) fn check_restorable(&self) -> Result<()> {
        match self.placing {
            Some(_) => Ok(()),
            None => bail!(Error::setting(
                "--restore-size: the file does not state the photo's size; invert the photo again"
            )),
        }
    }

    /// Whether the input is a picture that still needs inversion.
    pub(crate) fn is_photo(&self) -> bool {
        self.photo.is_some()
    }

    /// The picture at the working size.
    pub(crate) fn placed(&self) -> Option<&Picture> {
        self.placed.as_ref()
    }

    /// A mask for the picture, of any size, resized to its latent (1, 1, h, w).
    pub(crate) fn latent_mask(&self, mask: &Picture, device: &Device) -> Result<Tensor> {
        let placed = match self.placing {
            Some((canvas, photo)) => canvas.place(&mask.resized(photo)),
            None => mask.clone(),
        };
        Ok(placed.to_mask(self.latent, device)?)
    }

    /// A result in the picture's colours and, if requested, at its original
    /// size: pasted over the picture if it was cropped.
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
