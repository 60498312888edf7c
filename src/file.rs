//! Files that are either whole or not there.

mod growing;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::error::{Error, Result};

pub use growing::Growing;

/// Held while bytes are being written; the temporary files that are not whole
/// when it is free.
static WRITING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// While it lives, nothing is written.
pub struct Held(MutexGuard<'static, Vec<PathBuf>>);

impl Held {
    /// Takes away the files that were begun, for a program that ends here.
    pub fn abandon(&mut self) {
        for unfinished in self.0.drain(..) {
            // It is gone, or cannot be taken away: there is nobody to tell.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// Waits until no bytes are being written; none are while the guard lives.
///
/// A program that is told to stop takes it before it ends, and so leaves no
/// temporary file.
pub fn hold_writing() -> Held {
    // Whoever panicked while writing left nothing that the next must know of.
    Held(WRITING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Finds out whether `path` could be written, without touching it: a temporary
/// file is made beside it and taken away.
pub fn check_writable(path: &Path) -> Result<()> {
    if is_special(path) {
        return Ok(());
    }
    let _writing = hold_writing();
    let folder = folder_of(path);
    let beside = beside(path)?;
    let made = create(&beside).and_then(|_| fs::remove_file(&beside));
    made.map_err(|source| Error::io(folder, source))
}

/// Writes `bytes` to `path` so that nobody ever sees half of them: into a
/// temporary file in the same folder, which then takes the name.
///
/// A file that was there before is replaced, or left as it was when writing
/// fails. The temporary file does not outlive a failure. A device or a pipe is
/// no file to replace: the bytes go straight into it.
pub fn write_beside(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_special(path) {
        return fs::write(path, bytes).map_err(|source| Error::io(path, source));
    }
    let _writing = hold_writing();
    let folder = folder_of(path);
    let beside = beside(path)?;
    let mut file = create(&beside).map_err(|source| Error::io(folder, source))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&beside);
        Error::io(path, source)
    })
}

/// Whether `path` is there, but neither a file nor a folder.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The folder that `path` lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The temporary file for `path`: hidden, and named with the process so that two do not meet.
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

/// A new file in place of one that a process of the same number may have left.
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
    fn what_is_no_file_is_never_replaced() {
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
        let told = format!("{}: ", missing.display());
        assert!(error.to_string().starts_with(&told), "{error}");
    }

    #[test]
    fn what_could_be_written_is_found_out_without_a_trace() {
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
}
