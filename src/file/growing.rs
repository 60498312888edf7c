//! Files that are written piece by piece.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{beside, create, folder_of, hold_writing, is_special};
use crate::error::{Error, Result};

/// A file that is written piece by piece, into a temporary file in the same
/// folder, which takes the name in the end. What was there before is replaced
/// then, and left as it was if the end is never reached.
#[derive(Debug)]
pub struct Growing {
    path: PathBuf,
    beside: PathBuf,
    file: File,
}

impl Growing {
    /// Begins a file.
    pub fn begin(path: &Path) -> Result<Self> {
        if is_special(path) {
            let reason = "this is a device or a pipe, not a file to write";
            return Err(Error::io(path, io::Error::other(reason)));
        }
        let mut writing = hold_writing();
        let beside = beside(path)?;
        let file = create(&beside).map_err(|source| Error::io(folder_of(path), source))?;
        writing.0.push(beside.clone());
        Ok(Self {
            path: path.into(),
            beside,
            file,
        })
    }

    /// Writes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let _writing = hold_writing();
        let written = self.file.write_all(bytes);
        written.map_err(|source| Error::io(&self.path, source))
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<()> {
        let _writing = hold_writing();
        let named = fs::rename(&self.beside, &self.path);
        named.map_err(|source| Error::io(&self.path, source))
    }
}

impl Drop for Growing {
    /// Takes the temporary file away, where it has not got its name.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.beside);
        let mut writing = hold_writing();
        writing.0.retain(|unfinished| *unfinished != self.beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_pieces_make_one_file_that_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        fs::write(&path, b"old").unwrap();
        let mut growing = Growing::begin(&path).unwrap();
        growing.append(b"one ").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        growing.append(b"two").unwrap();
        growing.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        assert_eq!(count(folder.path()), 1);
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut growing = Growing::begin(&folder.path().join("a.bin")).unwrap();
        growing.append(b"half").unwrap();
        assert_eq!(count(folder.path()), 1);
        drop(growing);
        assert_eq!(count(folder.path()), 0);
        assert!(Growing::begin(&folder.path().join("no/a.bin")).is_err());
    }

    #[test]
    fn a_folder_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        let error = Growing::begin(&taken).unwrap().finish().unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(count(folder.path()), 1);
    }
}
