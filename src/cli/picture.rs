//! Pictures in and out of a verb.

use std::{io::Read, path::Path};

use anyhow::{Context, Result};
use candle_core::Tensor;
use clap::{Args, ValueEnum};
use icd::{
    file::write_beside,
    model::{Model, vae::Vae},
    picture::{
        Format, Picture, Size,
        fit::{Canvas, Fit},
    },
};

use super::{Console, console::print, output, settings::Settings, values::SizeValue};

/// How large a picture is worked on.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Size")]
pub(super) struct SizeArgs {
    /// The size to work at: N for a square (the picture is stretched to it, as
    /// the reference does), or WxH; the model's own by default.
    #[arg(long, value_name = "N|WxH")]
    size: Option<SizeValue>,
    /// How a picture of another shape is made to fit [default: keep, or
    /// stretch where a size is given].
    #[arg(long)]
    fit: Option<FitValue>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FitValue {
    /// Its own aspect, at as many pixels as the size has.
    Keep,
    /// Stretched to the size.
    Stretch,
    /// Scaled to cover the size, the rest cut off.
    Crop,
    /// Scaled to fit inside, the rest filled.
    Pad,
}

impl SizeArgs {
    /// The canvas for pictures of this model.
    pub(super) fn canvas(&self, model: &Model) -> icd::Result<Canvas> {
        let side = model.unet_config().side * model.latent_factor()?;
        let fit = match (self.fit, self.size) {
            (Some(FitValue::Keep), _) | (None, None) => Fit::Keep,
            (Some(FitValue::Stretch), _) | (None, Some(_)) => Fit::Stretch,
            (Some(FitValue::Crop), _) => Fit::Crop,
            (Some(FitValue::Pad), _) => Fit::Pad,
        };
        let own = Size::new(side, side);
        Ok(Canvas {
            size: self.size.map_or(own, SizeValue::size),
            fit,
        })
    }
}

/// Reads a picture from a file, or from stdin where the file is `-`.
pub(super) fn read(file: &Path) -> Result<Picture> {
    if file != Path::new("-") {
        return Ok(Picture::read(file)?);
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .context("reading the picture from stdin")?;
    Ok(Picture::decode(&bytes, Path::new("stdin"))?)
}

/// The picture of a latent (1, 4, h, w).
pub(super) fn decoded(vae: &Vae, latent: &Tensor, console: &Console) -> icd::Result<Picture> {
    if vae.decodes_in_strips(latent)? {
        console.detail("the autoencoder decodes in strips");
    }
    Picture::from_tensor(&vae.decode(latent)?)
}

/// Writes a picture in the format of its name's ending, or to stdout as PNG; a
/// PNG carries the settings that made it, where there are some to carry.
pub(super) fn write(picture: &Picture, file: &Path, settings: Option<&Settings>) -> Result<()> {
    let bytes = match (settings, output::format(file)?) {
        (Some(settings), Format::Png) => picture.encode_noted(&settings.text())?,
        (_, format) => picture.encode(format)?,
    };
    match output::is_stdout(file) {
        true => print(&bytes),
        false => Ok(write_beside(file, &bytes)?),
    }
}
