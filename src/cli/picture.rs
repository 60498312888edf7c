//! Reading and writing a command's pictures.

use std::{fs::File, path::Path};

use anyhow::{Context, Result};
use icd::{
    Error,
    io::{Existing, write_file},
    picture::{Format, Picture, bytes_of, is_animated},
};

use super::{Console, args::output, settings::Settings, ui::console::print_bytes};

/// Reads a picture from a file, or from stdin if the file is `-`. Warns if it is animated.
pub(crate) fn read(file: &Path, console: &Console) -> Result<Picture> {
    let (name, bytes) = match output::is_stdout(file) {
        true => {
            let bytes = bytes_of(std::io::stdin()).context("reading the picture from stdin")?;
            (Path::new("stdin"), bytes)
        }
        false => {
            let bytes = File::open(file).and_then(bytes_of);
            (file, bytes.map_err(|reason| Error::io(file, reason))?)
        }
    };
    let picture = Picture::decode(&bytes, name)?;
    if is_animated(&bytes) {
        let name = name.display();
        console.warn(&format!("{name}: animated: only its first frame is used"));
    }
    Ok(picture)
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
