//! Locks between processes that fetch the same file.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    thread,
    time::Duration,
};

use crate::error::{Error, Result};

/// Polling interval of a waiting process.
const INTERVAL: Duration = Duration::from_millis(200);

/// A lock that is released on drop or when the process ends, shared with other programs
/// that use the hub.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Acquires the lock; `wait` is called while another process holds it, and returns
    /// false to give up.
    pub(super) fn take(file: &Path, wait: &mut dyn FnMut() -> bool) -> Result<Option<Self>> {
        let fault = |error| Error::io(file, error);
        let folder = file.parent().unwrap_or(file);
        fs::create_dir_all(folder).map_err(fault)?;
        let lock = File::options().create(true).append(true).open(file);
        let lock = lock.map_err(fault)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(Self { _file: lock })),
                Err(TryLockError::WouldBlock) if wait() => thread::sleep(INTERVAL),
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
