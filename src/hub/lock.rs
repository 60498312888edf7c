//! Locks between processes that fetch the same file.

use std::{
    fs::{self, File, TryLockError},
    io,
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

/// What became of a wish for a lock.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is held until it is dropped.
    Held(#[expect(dead_code, reason = "kept for its drop")] Lock),
    /// The wait was given up.
    GivenUp,
    /// The file system has no locks: nothing keeps other processes away.
    Impossible(io::Error),
}

impl Lock {
    /// Acquires the lock; `wait` is called while another process holds it, and returns
    /// false to give up.
    pub(super) fn take(file: &Path, wait: &mut dyn FnMut() -> bool) -> Result<Taken> {
        let fault = |error| Error::io(file, error);
        let folder = file.parent().unwrap_or(file);
        fs::create_dir_all(folder).map_err(fault)?;
        let lock = File::options().create(true).append(true).open(file);
        let lock = lock.map_err(fault)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Taken::Held(Self { _file: lock })),
                Err(TryLockError::WouldBlock) if wait() => thread::sleep(INTERVAL),
                Err(TryLockError::WouldBlock) => return Ok(Taken::GivenUp),
                Err(TryLockError::Error(error)) => return Ok(Taken::Impossible(error)),
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
        let take = || Lock::take(&file, &mut || false).unwrap();
        let first = take();
        assert!(matches!(first, Taken::Held(_)));
        assert!(matches!(take(), Taken::GivenUp));
        drop(first);
        assert!(matches!(take(), Taken::Held(_)));
    }
}
