//! Whole files in memory, of bounded size: what is named may be a device without end.

use std::{
    fs::File,
    io::{Error, ErrorKind, Read, Result},
    path::Path,
};

/// Most bytes of a file that is read as a whole.
const MAX_BYTES: u64 = 1 << 30;

/// The bytes of a file, at most 1 GiB.
pub fn read_file(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(file)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= MAX_BYTES {
        true => Ok(bytes),
        false => Err(Error::new(
            ErrorKind::FileTooLarge,
            "it is larger than 1 GiB",
        )),
    }
}
