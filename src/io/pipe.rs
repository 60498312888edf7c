//! Pipes, which give their bytes only once, as `/dev/fd/63` of a shell's `<(command)`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use safetensors::SafeTensors;

use crate::error::{Error, Result};

/// Most bytes of a safetensors header; what begins otherwise may have no end.
const MAX_HEADER: u64 = 100 << 20;

/// What was read of each path.
static KEPT: Mutex<Option<HashMap<PathBuf, &'static [u8]>>> = Mutex::new(None);

/// Whether `path` exists, but is neither a file nor a folder.
pub(crate) fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The weights that come out of a pipe. They are kept as long as the process runs, since
/// networks are loaded, and metadata read, when they are needed.
pub(crate) fn kept(path: &Path) -> Result<&'static [u8]> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    if let Some(bytes) = kept.get(path) {
        return Ok(bytes);
    }
    let bytes = File::open(path).and_then(read);
    let bytes = bytes.map_err(|error| Error::io(path, error))?;
    let bytes: &'static [u8] = Vec::leak(bytes);
    kept.insert(path.into(), bytes);
    Ok(bytes)
}

/// Reads a safetensors file: the header, then as much as that says and one byte more, which
/// makes a file that goes on one that is refused.
fn read(mut pipe: impl Read) -> io::Result<Vec<u8>> {
    let foreign = || {
        let reason = "what comes from a pipe or device must be a safetensors file; name another \
                      file itself";
        io::Error::other(reason)
    };
    let mut bytes = Vec::new();
    (&mut pipe).take(8).read_to_end(&mut bytes)?;
    let length = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let length = length.filter(|length| (1..=MAX_HEADER).contains(length));
    (&mut pipe)
        .take(length.ok_or_else(foreign)?)
        .read_to_end(&mut bytes)?;
    let header = SafeTensors::read_metadata(&bytes).map_err(|_| foreign())?.1;
    pipe.take(header.data_len() as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn devices_without_weights_are_refused_and_not_read_to_their_end() {
        for device in ["/dev/zero", "/dev/urandom", "/dev/null"] {
            assert!(is_special(device.as_ref()));
            let error = kept(device.as_ref()).unwrap_err().to_string();
            assert!(
                error.contains(device) && error.contains("safetensors"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_pipe_without_end_is_read_to_where_its_header_says() {
        let header = br#"{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let begin = [&length[..], header].concat();
        let bytes = read(begin.chain(io::repeat(7))).unwrap();
        assert_eq!(bytes.len(), begin.len() + 5);
    }
}
