//! The input of an edit, and how it is resized to the model's size and back.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, ensure};
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

/// A picture, and how it is fitted to the model.
pub(crate) struct Placed<'a> {
    pub(crate) photo: &'a Picture,
    pub(crate) canvas: Canvas,
    /// The picture at the working size.
    pub(crate) picture: Picture,
}

impl<'a> Placed<'a> {
    pub(crate) fn new(photo: &'a Picture, canvas: Canvas) -> Self {
        let picture = canvas.place(photo);
        Self {
            photo,
            canvas,
            picture,
        }
    }

    /// The picture at the size of results.
    pub(crate) fn at(&self, size: ResultSize) -> &Picture {
        match size {
            ResultSize::Photo => self.photo,
            ResultSize::Work => &self.picture,
        }
    }
}

/// The size of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResultSize {
    /// That of the picture that is edited.
    Photo,
    /// The one at which the edit is made.
    Work,
}

/// What an edit starts from, and how its result is fitted back.
pub(crate) enum Frame<'a> {
    /// A picture to invert, and the size of its latent.
    Photo(Placed<'a>, Size),
    /// An inverted picture, and how it was placed and its size, if its file states them.
    Latents(&'a Latents, Option<(Canvas, Size)>),
}

impl<'a> Frame<'a> {
    /// The frame of an input, which is placed according to the flags unless it
    /// is already inverted. An inversion by another model is an error.
    pub(crate) fn of(input: &'a Input, size: SizeArgs, model: &Model) -> Result<Self> {
        match input {
            Input::Photo(photo) => {
                let placed = Placed::new(photo, size.canvas(model)?);
                let latent = model.latent_size(placed.picture.size())?;
                Ok(Self::Photo(placed, latent))
            }
            Input::Latents(file, latents) => {
                latents.check_origin(file, model)?;
                Ok(Self::Latents(latents, latents.placing()))
            }
        }
    }

    /// The picture to invert, if it is one.
    pub(crate) fn placed(&self) -> Option<&Placed<'a>> {
        match self {
            Self::Photo(placed, _) => Some(placed),
            Self::Latents(..) => None,
        }
    }

    /// The inverted picture, if it is one.
    pub(crate) fn latents(&self) -> Option<&'a Latents> {
        match self {
            Self::Photo(..) => None,
            Self::Latents(latents, _) => Some(latents),
        }
    }

    /// The size of the latent.
    pub(crate) fn latent(&self) -> Result<Size> {
        match self {
            Self::Photo(_, latent) => Ok(*latent),
            Self::Latents(latents, _) => {
                let (_, _, height, width) = latents.inverted.latent.dims4()?;
                Ok(Size::new(width, height))
            }
        }
    }

    /// The size of the work in pixels.
    pub(crate) fn worked(&self, model: &Model) -> Result<Size> {
        let (latent, factor) = (self.latent()?, model.latent_factor()?);
        Ok(Size::new(latent.width * factor, latent.height * factor))
    }

    /// The size of results.
    pub(crate) fn result(&self, model: &Model, size: ResultSize) -> Result<Size> {
        match (self.placing(), size) {
            (Some((_, photo)), ResultSize::Photo) => Ok(photo),
            _ => self.worked(model),
        }
    }

    /// How the picture was placed, and its size.
    fn placing(&self) -> Option<(Canvas, Size)> {
        match self {
            Self::Photo(placed, _) => Some((placed.canvas, placed.photo.size())),
            Self::Latents(_, placing) => *placing,
        }
    }

    /// The size at which a picture is edited, told if it is not its own.
    pub(crate) fn worked_at(&self) -> Option<String> {
        let placed = self.placed()?;
        let (worked, photo) = (placed.picture.size(), placed.photo.size());
        (worked != photo).then(|| format!("edited at {worked} (photo: {photo})"))
    }

    /// Fails if the size to restore is unknown.
    pub(crate) fn check_restorable(&self) -> Result<()> {
        let reason =
            "--restore-size: the file does not state the photo's size; invert the photo again";
        ensure!(self.placing().is_some(), Error::setting(reason));
        Ok(())
    }

    /// A mask for the picture, of any size, resized to its latent (1, 1, h, w).
    pub(crate) fn latent_mask(&self, mask: &Picture, device: &Device) -> Result<Tensor> {
        let placed = match self.placing() {
            Some((canvas, photo)) => canvas.place(&mask.resized(photo)),
            None => mask.clone(),
        };
        Ok(placed.to_mask(self.latent()?, device)?)
    }

    /// A result in the picture's colours and at this size: pasted over the picture if it
    /// was cropped.
    pub(crate) fn finished(&self, result: &Picture, size: ResultSize) -> Picture {
        let restored = match (self.placing(), size) {
            (Some((canvas, photo)), ResultSize::Photo) => canvas.restore(result, photo),
            _ => result.clone(),
        };
        match (self.placed(), size) {
            (Some(placed), ResultSize::Photo) => {
                let window = placed.canvas.windows(placed.photo.size()).photo;
                placed.photo.with_part(&restored, window)
            }
            (Some(placed), ResultSize::Work) => restored.with_profile_of(placed.photo),
            (None, _) => restored.with_profile(self.profile()),
        }
    }

    /// The colour profile of the picture.
    fn profile(&self) -> Option<Arc<[u8]>> {
        match self {
            Self::Photo(placed, _) => placed.photo.profile().map(Into::into),
            Self::Latents(latents, _) => latents.profile(),
        }
    }
}
