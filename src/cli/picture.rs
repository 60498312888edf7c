//! Reading and writing a command's pictures.

use std::path::Path;

use anyhow::{Context, Result};
use icd::{
    io::{Existing, write_file},
    picture::{Format, Picture, bytes_of},
};

use super::{args::output, settings::Settings, ui::console::print_bytes};

/// Reads a picture from a file, or from stdin if the file is `-`.
pub(crate) fn read(file: &Path) -> Result<Picture> {
    if file != Path::new("-") {
        return Ok(Picture::read(file)?);
    }
    let bytes = bytes_of(std::io::stdin()).context("reading the picture from stdin")?;
    Ok(Picture::decode(&bytes, Path::new("stdin"))?)
}

/// Writes a picture in the format given by the file extension, or to stdout as
/// PNG; a PNG embeds `settings`, if given.
pub(crate) fn write(
    picture: &Picture,
    file: &Path,
    settings: Option<&Settings>,
    existing: Existing,
) -> Result<()> {
    let bytes = match (settings, output::format(file)?) {
        (Some(settings), Format::Png) => picture.encode_noted(&settings.text())?,
        (_, format) => picture.encode(format)?,
    };
    match output::is_stdout(file) {
        true => print_bytes(&bytes),
        false => Ok(write_file(file, &bytes, existing)?),
    }
}
