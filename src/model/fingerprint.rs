//! A short name of a file by its content.

use std::{
    fs::File,
    io::{self, Cursor, Read, Seek, SeekFrom},
};

use crate::{
    error::{Error, Result},
    source::Source,
};

/// A hash (FNV-1a, 64 bits) of a file's length, beginning and end.
pub(super) fn fingerprint(file: &Source) -> Result<String> {
    let sample = match file.in_program() {
        Some(bytes) => sample(Cursor::new(bytes)),
        None => File::open(file).and_then(sample),
    };
    let bytes = sample.map_err(|error| Error::io(file, error))?;
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    Ok(format!(
        "{:016x}",
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
    ))
}

fn sample(mut file: impl Read + Seek) -> io::Result<Vec<u8>> {
    const SAMPLE: u64 = 64 << 10;
    let length = file.seek(SeekFrom::End(0))?;
    let mut bytes = length.to_le_bytes().to_vec();
    file.rewind()?;
    file.by_ref().take(SAMPLE).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(length.saturating_sub(SAMPLE)))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
