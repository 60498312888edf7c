//! Pipes, which give their bytes only once, as `/dev/fd/63` of a shell's `<(command)`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

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
    let bytes = read(path).map_err(|error| Error::io(path, error))?;
    let bytes: &'static [u8] = Vec::leak(bytes);
    kept.insert(path.into(), bytes);
    Ok(bytes)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut pipe = File::open(path)?;
    let mut bytes = Vec::new();
    (&mut pipe).take(8).read_to_end(&mut bytes)?;
    let length = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if !length.is_some_and(|length| (1..=MAX_HEADER).contains(&length)) {
        let reason = "what comes from a pipe or device must be a safetensors file; name another \
                      file itself";
        return Err(io::Error::other(reason));
    }
    pipe.read_to_end(&mut bytes)?;
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
}
