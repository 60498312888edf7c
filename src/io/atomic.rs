//! Files that are written atomically: complete or not at all.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::error::{Error, Result};

/// Locked while bytes are written; the temporary files that are not finished.
static WRITING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Guard that blocks all writing.
pub struct Held(MutexGuard<'static, Vec<PathBuf>>);

impl Held {
    /// Removes all unfinished files, before the process exits.
    pub fn abandon(&mut self) {
        for unfinished in self.0.drain(..) {
            // Errors cannot be reported: the process exits.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// Waits until no bytes are being written and blocks writing until the guard is dropped.
///
/// An interrupted process acquires it before it exits, to leave no temporary file.
pub fn hold_writing() -> Held {
    // A panic while writing leaves the list valid.
    Held(WRITING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Checks whether `path` can be written without changing it: a temporary file is
/// created beside it and removed.
pub fn check_writable(path: &Path) -> Result<()> {
    match is_special(path) {
        true => Ok(()),
        false => Growing::begin(path).map(drop),
    }
}

/// Writes `bytes` to `path` atomically: into a temporary file in the same folder, which
/// is then renamed.
///
/// An existing file is replaced, or left unchanged if writing fails; the temporary file
/// is then removed. A device or a pipe is written directly.
pub fn write_beside(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_special(path) {
        return fs::write(path, bytes).map_err(|source| Error::io(path, source));
    }
    let mut growing = Growing::begin(path)?;
    growing.append(bytes)?;
    growing.finish()
}

/// A file that is written piece by piece into a temporary file in the same folder, which
/// is finally renamed. An existing file is replaced then, or left unchanged if the end is
/// never reached.
#[derive(Debug)]
pub struct Growing {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Growing {
    /// Creates the temporary file.
    pub fn begin(path: &Path) -> Result<Self> {
        if is_special(path) {
            let reason = "this is a device or a pipe, not a file to write";
            return Err(Error::io(path, io::Error::other(reason)));
        }
        let mut writing = hold_writing();
        let temporary = beside(path)?;
        let file = create(&temporary).map_err(|source| Error::io(folder_of(path), source))?;
        writing.0.push(temporary.clone());
        Ok(Self {
            path: path.into(),
            temporary,
            file,
        })
    }

    /// Writes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let _writing = hold_writing();
        let written = self.file.write_all(bytes);
        written.map_err(|source| Error::io(&self.path, source))
    }

    /// Renames the file to its final name.
    pub fn finish(self) -> Result<()> {
        let _writing = hold_writing();
        let renamed = fs::rename(&self.temporary, &self.path);
        renamed.map_err(|source| Error::io(&self.path, source))
    }
}

impl Drop for Growing {
    /// Removes the temporary file unless it was renamed.
    fn drop(&mut self) {
        let mut writing = hold_writing();
        let _ = fs::remove_file(&self.temporary);
        writing.0.retain(|unfinished| *unfinished != self.temporary);
    }
}

/// Whether `path` exists, but is neither a file nor a folder.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The folder that contains `path`.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The temporary file for `path`: hidden, with the process id to be unique.
fn beside(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let reason = "this is a folder, not the name of a file to write";
        return Err(Error::io(path, io::Error::other(reason)));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", process::id()));
    Ok(path.with_file_name(hidden))
}

/// Creates a file, replacing one left by an earlier process with the same id.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_written_file_stands_alone_and_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_beside(&path, b"old and long").unwrap();
        write_beside(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failure_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        let error = write_beside(&taken, b"x").unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert_eq!(names(folder.path()), ["taken"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(write_beside(&path, b"x").is_err());
        assert!(is_special(&path));
        assert_eq!(names(folder.path()), ["socket"]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = write_beside(&missing.join("a.bin"), b"x").unwrap_err();
        let start = format!("{}: ", missing.display());
        assert!(error.to_string().starts_with(&start), "{error}");
    }

    #[test]
    fn checking_for_permission_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        fs::write(&path, b"old").unwrap();
        check_writable(&path).unwrap();
        check_writable(&folder.path().join("b.bin")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
        let missing = folder.path().join("missing").join("a.bin");
        assert!(check_writable(&missing).is_err());
    }

    #[test]
    fn nothing_is_written_while_writing_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let held = hold_writing();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_beside(&path, b"x"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(names(folder.path()).is_empty());
            drop(held);
            writer.join().unwrap().unwrap();
        });
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_path_without_a_name_is_an_error() {
        let error = write_beside(Path::new("/"), b"x").unwrap_err().to_string();
        assert!(error.contains("folder"), "{error}");
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
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut growing = Growing::begin(&folder.path().join("a.bin")).unwrap();
        growing.append(b"half").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop(growing);
        assert_eq!(names(folder.path()).len(), 0);
        assert!(Growing::begin(&folder.path().join("no/a.bin")).is_err());
    }

    #[test]
    fn a_folder_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        let error = Growing::begin(&taken).unwrap().finish().unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(names(folder.path()).len(), 1);
    }
}
