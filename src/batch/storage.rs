//! Where the files of a batch lie: on a disk, or wherever else a program keeps them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::Record;
use crate::{
    error::{Error, Result},
    io::{Existing, read_file, write_file},
};

/// Files by name: paths of a disk, or URLs.
pub trait Storage: Sync {
    /// How files are written there.
    fn kind(&self) -> Kind;

    /// The content of a file, at most 1 GiB.
    fn read(&self, file: &Path) -> Result<Vec<u8>>;

    /// What has this name; `None` if nothing has it.
    fn stat(&self, file: &Path) -> Result<Option<Stat>>;

    /// The files in a folder, in the order of their names, not those in its folders; none if
    /// the folder does not exist.
    fn files(&self, folder: &Path) -> Result<Vec<PathBuf>>;

    /// Whether this is a folder of files rather than a file.
    fn is_folder(&self, path: &Path) -> Result<bool>;

    /// Creates a folder and those above it, or fails if nothing can be written into it.
    fn create_folder(&self, folder: &Path) -> Result<()>;

    /// Writes a file, whole or not at all. Objects carry a record; a disk has ledgers for them.
    fn write(
        &self,
        file: &Path,
        bytes: &[u8],
        record: Option<&Record>,
        existing: Existing,
    ) -> Result<()>;

    /// Removes a file, if there is one.
    fn remove(&self, file: &Path) -> Result<()>;
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As files, which can be appended to and locked.
    Files,
    /// As objects, each at once, with notes beside its content.
    Objects,
}

/// What has a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Stat {
    /// A file, and the record that it carries.
    File {
        /// Its size.
        bytes: u64,
        /// What an object states of its content.
        record: Option<Record>,
    },
    /// A folder.
    Folder,
    /// A device, or a link that leads nowhere.
    Other,
}

/// The files of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Storage for Disk {
    fn kind(&self) -> Kind {
        Kind::Files
    }

    fn read(&self, file: &Path) -> Result<Vec<u8>> {
        read_file(file).map_err(|error| Error::io(file, error))
    }

    fn stat(&self, file: &Path) -> Result<Option<Stat>> {
        if fs::symlink_metadata(file).is_err() {
            return Ok(None);
        }
        Ok(Some(match fs::metadata(file) {
            Ok(found) if found.is_dir() => Stat::Folder,
            Ok(found) if found.is_file() => Stat::File {
                bytes: found.len(),
                record: None,
            },
            _ => Stat::Other,
        }))
    }

    fn files(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let fault = |error| Error::io(folder, error);
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fault)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(fault)?.path();
            if file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }

    fn is_folder(&self, path: &Path) -> Result<bool> {
        Ok(path.is_dir())
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))
    }

    fn write(
        &self,
        file: &Path,
        bytes: &[u8],
        _: Option<&Record>,
        existing: Existing,
    ) -> Result<()> {
        write_file(file, bytes, existing)
    }

    fn remove(&self, file: &Path) -> Result<()> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(file, error)),
            _ => Ok(()),
        }
    }
}

/// A new file of a disk to append to.
pub(super) fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create_new(true).open(path);
    file.map_err(|error| Error::io(path, error))
}
