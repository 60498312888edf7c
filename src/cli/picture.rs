//! Reading and writing a command's pictures.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use icd::{
    Error,
    io::{Existing, write_file},
    picture::{Picture, bytes_of, is_animated, note},
};

use super::{
    Console,
    args::output,
    settings::{InputHash, Settings},
    storage,
    ui::lines::print_bytes,
};

/// The bytes of a picture's file, or of stdin if the file is `-`, and their name.
fn opened(file: &Path) -> Result<(Vec<u8>, &Path)> {
    if output::is_stdout(file) {
        let bytes = bytes_of(std::io::stdin()).context("reading the picture from stdin")?;
        return Ok((bytes, Path::new("stdin")));
    }
    Ok((storage::read(file)?, file))
}

/// Reads a picture from a file, or from stdin if the file is `-`. Warns if it is animated.
pub(crate) fn read(file: &Path, console: &Console) -> Result<Picture> {
    Ok(read_hashed(file, console)?.0)
}

/// Reads a picture as [`read`] does, and hashes its file.
pub(crate) fn read_hashed(file: &Path, console: &Console) -> Result<(Picture, InputHash)> {
    let (bytes, name) = opened(file)?;
    warn_of_frames(&bytes, name, console);
    Ok((Picture::decode(&bytes, name)?, InputHash::of(&bytes)))
}

/// A picture is one frame.
fn warn_of_frames(bytes: &[u8], name: &Path, console: &Console) {
    if is_animated(bytes) {
        let name = name.display();
        console.warn(&format!("{name}: animated: only its first frame is used"));
    }
}

/// Reads a mask. Warns if it is of one colour, white or black, which is hardly meant.
pub(crate) fn read_mask(file: &Path, console: &Console) -> Result<Picture> {
    let (bytes, name) = opened(file)?;
    let mask = Picture::decode_mask(&bytes, name)?;
    let is_all = |value: u8| mask.pixels().iter().all(|byte| *byte == value);
    let name = name.display();
    if is_all(u8::MAX) {
        console.warn(&format!(
            "mask {name}: it is white everywhere and confines nothing"
        ));
    } else if is_all(0) {
        console.warn(&format!(
            "mask {name}: it is black everywhere, so nothing may change"
        ));
    }
    Ok(mask)
}

/// Fails if the format of a file cannot hold the settings, before the work is done.
pub(crate) fn check_settings(file: &Path, settings: &Settings) -> Result<()> {
    let (format, text) = (output::format(file)?, settings.text());
    let reason = || {
        format!(
            "{}: the settings take {} bytes, more than a {format} holds: name a .png or .webp \
             file, or pass --no-metadata",
            file.display(),
            text.len()
        )
    };
    ensure!(note::fits(format, &text), Error::setting(reason()));
    Ok(())
}

/// Writes a picture in the format given by the file extension, or to stdout as
/// PNG; with `settings` embedded, if given.
pub(crate) fn write(
    picture: &Picture,
    file: &Path,
    settings: Option<&Settings>,
    existing: Existing,
) -> Result<()> {
    let bytes = encoded(picture, file, settings)?;
    match output::is_stdout(file) {
        true => print_bytes(&bytes),
        false => Ok(write_file(file, &bytes, existing)?),
    }
}

/// The bytes of a picture's file of this name, as [`write`] writes them.
pub(crate) fn encoded(
    picture: &Picture,
    file: &Path,
    settings: Option<&Settings>,
) -> Result<Vec<u8>> {
    let format = output::format(file)?;
    Ok(match settings {
        Some(settings) => picture.encode_noted(format, &settings.text())?,
        None => picture.encode(format)?,
    })
}
