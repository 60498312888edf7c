//! Files that are written atomically: complete or not at all.
//!
//! A file is written into a temporary file in the same folder, `.icd-*.tmp`, which then
//! takes its name. The temporary file is locked while it is written: one whose lock is
//! free was left by a process that was killed, and the next write into its folder removes
//! it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::{Builder, NamedTempFile};

use super::is_special;
use crate::error::{Error, Result};

const PREFIX: &str = ".icd-";
const SUFFIX: &str = ".tmp";
/// Random characters of a temporary name.
const RANDOM: usize = 12;
/// Symbolic links that are followed, as many as Linux does.
const MAX_LINKS: usize = 40;

/// What becomes of an existing file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is kept: writing fails, also if it appears meanwhile.
    Keep,
    /// It is replaced. A symbolic link is followed; the mode of the file is kept.
    Replace,
}

/// Locked while bytes are written.
static WRITING: Mutex<State> = Mutex::new(State {
    unfinished: BTreeSet::new(),
    cleared: BTreeSet::new(),
});

struct State {
    /// The temporary files of this process.
    unfinished: BTreeSet<PathBuf>,
    /// The folders in which stale temporary files were looked for.
    cleared: BTreeSet<PathBuf>,
}

/// Guard that blocks all writing.
pub struct Held(MutexGuard<'static, State>);

impl Held {
    /// Removes all unfinished files, before the process ends.
    pub fn abandon(&mut self) {
        for unfinished in std::mem::take(&mut self.0.unfinished) {
            // Errors cannot be reported: the process ends.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// Waits until no bytes are being written and blocks writing until the guard is dropped.
///
/// An interrupted process acquires it before it ends, to leave no temporary file.
pub fn hold_writing() -> Held {
    // A panic while writing leaves the state valid.
    Held(WRITING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Checks whether `path` can be written without changing it: a temporary file is
/// created beside it and removed.
pub fn check_writable(path: &Path) -> Result<()> {
    match is_special(path) {
        true => Ok(()),
        false => AtomicFile::create(path, Existing::Replace).map(drop),
    }
}

/// Writes `bytes` to `path` atomically. If writing fails, an existing file is unchanged and
/// no temporary file is left. A device or a pipe is written directly.
pub fn write_file(path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    if is_special(path) {
        return fs::write(path, bytes).map_err(|source| Error::io(path, source));
    }
    let mut file = AtomicFile::create(path, existing)?;
    file.append(bytes)?;
    file.finish()
}

/// A file that is written piece by piece and gets its name at the end. Dropped before, it
/// leaves nothing.
#[derive(Debug)]
pub struct AtomicFile {
    /// The path as given, for messages.
    path: PathBuf,
    /// The path behind symbolic links.
    target: PathBuf,
    existing: Existing,
    temporary: NamedTempFile,
    unfinished: Unfinished,
}

impl AtomicFile {
    /// Creates the temporary file.
    pub fn create(path: &Path, existing: Existing) -> Result<Self> {
        let fault = |reason: &str| Error::io(path, io::Error::other(reason));
        if is_special(path) {
            return Err(fault("this is a device or a pipe, not a file to write"));
        }
        if path.file_name().is_none() {
            return Err(fault("this is a folder, not the name of a file to write"));
        }
        let target = match existing {
            Existing::Keep => path.into(),
            Existing::Replace => behind_links(path).map_err(|source| Error::io(path, source))?,
        };
        let folder = folder_of(&target);
        let mut writing = hold_writing();
        if writing.0.cleared.insert(folder.into()) {
            clear_stale(folder);
        }
        let temporary = temporary_in(folder).map_err(|source| Error::io(folder, source))?;
        let unfinished = Unfinished(temporary.path().into());
        writing.0.unfinished.insert(unfinished.0.clone());
        Ok(Self {
            path: path.into(),
            target,
            existing,
            temporary,
            unfinished,
        })
    }

    /// Writes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let _writing = hold_writing();
        let written = self.temporary.write_all(bytes);
        written.map_err(|source| Error::io(&self.path, source))
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<()> {
        let writing = hold_writing();
        let named = named(self.temporary, &self.target, self.existing);
        drop(writing);
        drop(self.unfinished);
        named.map_err(|source| Error::io(&self.path, source))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _writing = hold_writing();
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

/// The entry of a temporary file in the list of unfinished ones.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        hold_writing().0.unfinished.remove(&self.0);
    }
}

/// Renames a temporary file to `target`.
fn named(temporary: NamedTempFile, target: &Path, existing: Existing) -> io::Result<()> {
    let named = match existing {
        Existing::Replace => {
            if let Ok(old) = fs::metadata(target) {
                temporary.as_file().set_permissions(old.permissions())?;
            }
            temporary.persist(target)
        }
        Existing::Keep => match temporary.persist_noclobber(target) {
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
                let reason = "a file of this name exists and was left as it is";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
            }
            Err(failed) => {
                // Not every file system can rename without replacing: the name is taken first.
                File::create_new(target)?;
                failed.file.persist(target)
            }
            named => named,
        },
    };
    named.map(drop).map_err(|failed| failed.error)
}

/// Creates and locks a temporary file in a folder.
fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    loop {
        let file = builder.tempfile_in(folder).map_err(without_path)?;
        // A file system without locks has no stale files cleared.
        let _ = file.as_file().lock();
        // Another process may have taken it for a stale one before it was locked.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// The system's error, without the name of the temporary file that `tempfile` adds to it.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    let (reason, _) = text.split_once(" at path ").unwrap_or((&text, ""));
    io::Error::new(error.kind(), reason)
}

/// Removes the temporary files of processes that were killed.
fn clear_stale(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The one path of the file that writing to `path` makes: links are followed, also those of
/// its folders, of which some may not exist yet.
pub fn resolved(path: &Path) -> PathBuf {
    let target = behind_links(path).unwrap_or_else(|_| path.into());
    canonical(&target).unwrap_or(target)
}

/// The canonical path of what need not exist.
fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().or_else(|| {
        let name = path.file_name()?;
        Some(canonical(folder_of(path))?.join(name))
    })
}

/// The path to which symbolic links lead, whether it exists or not.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = folder_of(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("its symbolic links form a loop"))
}

/// The folder that contains `path`.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
