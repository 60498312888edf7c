//! Pictures in and out of a verb.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use icd::{
    Error,
    file::write_beside,
    model::Model,
    picture::{
        Format, Picture, Size,
        fit::{Canvas, Fit},
    },
};

use super::{settings::Settings, values::SizeValue};

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

/// Refuses an output picture that could not be written, before the work for it
/// is done.
pub(super) fn check_output(file: &Path) -> Result<(), Error> {
    Format::of(file).map_err(|error| Error::setting(error.to_string()))?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(Error::picture(file, "its folder does not exist")),
        _ => Ok(()),
    }
}

/// Writes a picture in the format of its name's ending; a PNG carries the
/// settings that made it, where there are some to carry.
pub(super) fn write(picture: &Picture, file: &Path, settings: Option<&Settings>) -> Result<()> {
    match (settings, Format::of(file)?) {
        (Some(settings), Format::Png) => {
            write_beside(file, &picture.encode_noted(&settings.text())?)?;
        }
        _ => picture.write(file)?,
    }
    Ok(())
}

/// The name of output `index` of `count`: `out.png` alone, else `out-1.png`, ..
pub(super) fn numbered(file: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return file.into();
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let ending = file
        .extension()
        .map(|ending| format!(".{}", ending.to_string_lossy()));
    file.with_file_name(format!("{stem}-{index}{}", ending.unwrap_or_default()))
}

/// `in.edited.png` in the current folder, for a picture or dump `in.*`.
pub(super) fn beside_name(input: &Path, tag: &str, ending: &str) -> PathBuf {
    let name = match input.to_string_lossy().as_ref() {
        "-" => "stdin".into(),
        _ => input
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    let stem = name
        .split('.')
        .next()
        .filter(|stem| !stem.is_empty())
        .unwrap_or("picture")
        .to_string();
    PathBuf::from(format!("{stem}.{tag}{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_their_input() {
        let name = |input: &str| {
            beside_name(Path::new(input), "edited", ".png")
                .display()
                .to_string()
        };
        assert_eq!(name("a/bird.jpg"), "bird.edited.png");
        assert_eq!(name("bird.latents.safetensors"), "bird.edited.png");
        assert_eq!(name("-"), "stdin.edited.png");
        let number = |count| {
            numbered(Path::new("x/out.png"), 2, count)
                .display()
                .to_string()
        };
        assert_eq!(
            (number(1), number(3)),
            ("x/out.png".into(), "x/out-2.png".into())
        );
    }
}
