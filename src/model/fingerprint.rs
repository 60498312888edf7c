//! A short identifier of a file by its content.

use std::{
    fs::File,
    io::{self, Cursor, Read, Seek, SeekFrom},
};

use crate::{
    error::{Error, Result},
    io::{Source, shard_names},
};

/// Bytes per sample.
const SAMPLE: u64 = 64 << 10;
/// Number of samples, evenly spaced over the file: the header alone may be longer than
/// a sample, and a fine-tune may change only a few layers.
const SAMPLES: u64 = 64;

/// A hash (FNV-1a, 64 bits) of a file's length and of samples of its content; for a
/// shard index, of all shards.
pub(super) fn fingerprint(file: &Source) -> Result<String> {
    let mut hash = of_file(file)?;
    for shard in shard_names(file.name())? {
        let shard = file.name().with_file_name(shard).into();
        hash = mixed(hash, &of_file(&shard)?.to_le_bytes());
    }
    Ok(format!("{hash:016x}"))
}

fn of_file(file: &Source) -> Result<u64> {
    let hash = match file.in_program() {
        Some(bytes) => sampled(Cursor::new(bytes)),
        None => File::open(file).and_then(sampled),
    };
    hash.map_err(|error| Error::io(file, error))
}

fn sampled(mut file: impl Read + Seek) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut hash = mixed(0xcbf2_9ce4_8422_2325, &length.to_le_bytes());
    let last = length.saturating_sub(SAMPLE);
    let mut places: Vec<_> = (0..SAMPLES).map(|i| last * i / (SAMPLES - 1)).collect();
    places.dedup();
    let mut bytes = Vec::new();
    for place in places {
        bytes.clear();
        file.seek(SeekFrom::Start(place))?;
        file.by_ref().take(SAMPLE).read_to_end(&mut bytes)?;
        hash = mixed(hash, &bytes);
    }
    Ok(hash)
}

fn mixed(hash: u64, bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(hash, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_middle_is_another_file() {
        let mut bytes = vec![7u8; 8 << 20];
        let before = sampled(Cursor::new(&bytes[..])).unwrap();
        // As long as the smallest layer that is fine-tuned.
        bytes[3 << 20..(3 << 20) + (320 * 320 * 2)].fill(8);
        assert_ne!(sampled(Cursor::new(&bytes[..])).unwrap(), before);
    }

    #[test]
    fn small_files_are_read_whole() {
        let of = |bytes: &[u8]| sampled(Cursor::new(bytes)).unwrap();
        assert_ne!(of(b"abc"), of(b"abd"));
        assert_ne!(of(b""), of(b"a"));
        assert_eq!(of(b"abc"), of(b"abc"));
    }
}
