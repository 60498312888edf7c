//! Two programs that want the same file: one fetches, the other waits.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    thread,
    time::Duration,
};

use crate::error::{Error, Result};

/// How often a waiting program looks again.
const LOOK: Duration = Duration::from_millis(200);

/// A lock that ends with this value, and with the program in any case. Other
/// programs of the hub take the same one.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a file; `wait` is called when it is another's, and may
    /// say that there is no need any more.
    pub(super) fn take(file: &Path, wait: &mut dyn FnMut() -> bool) -> Result<Option<Self>> {
        let fault = |error| Error::io(file, error);
        let folder = file.parent().unwrap_or(file);
        fs::create_dir_all(folder).map_err(fault)?;
        let lock = File::options().create(true).append(true).open(file);
        let lock = lock.map_err(fault)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(Self { _file: lock })),
                Err(TryLockError::WouldBlock) if wait() => thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(fault(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("locks/x.lock");
        let first = Lock::take(&file, &mut || false).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&file, &mut || false).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&file, &mut || false).unwrap().is_some());
    }
}
