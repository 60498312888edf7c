//! Hashes of whole files.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{BuiltIn, Existing, Source, read_file, write_file};
use crate::error::{Error, Result};

/// Bytes that are hashed at once.
const CHUNK: u64 = 8 << 20;
/// Files of so many bytes are hashed once, and the hash is remembered.
const LARGE: u64 = 64 << 20;

/// Where the hashes of large files are remembered, as long as these stay as they are.
#[derive(Clone, Debug, Default)]
pub struct Digests {
    remembered: Option<PathBuf>,
    /// Those of this process.
    known: Arc<Mutex<Known>>,
}

/// Hashes by the paths of the files.
type Known = BTreeMap<String, Remembered>;

/// What a file has from the system, which changes with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    size: u64,
    /// Nanoseconds since 1970: of the content, and on Unix of anything about the file.
    changed: [u128; 2],
    inode: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    state: State,
    digest: String,
}

impl Digests {
    /// Remembers hashes in a file, which may be deleted at any time.
    pub fn remembered_in(file: impl Into<PathBuf>) -> Self {
        let remembered = Some(file.into());
        let known = Arc::default();
        Self { remembered, known }
    }

    /// A hash of the whole content of a file, in hexadecimal. That of a blob in the hub's
    /// cache is its name, which `icd model verify` compares with its content.
    pub fn of(&self, file: &Source) -> Result<String> {
        if let Some(BuiltIn { bytes, sha256 }) = file.in_program() {
            return Ok(sha256.map_or_else(|| hex(bytes), str::to_owned));
        }
        let fault = |error| Error::io(file, error);
        let path = fs::canonicalize(file).map_err(fault)?;
        if let Some(name) = blob_name(&path) {
            return Ok(name);
        }
        let state = State::of(&fs::metadata(&path).map_err(fault)?);
        if state.size < LARGE {
            return content(&path, state.size).map_err(fault);
        }
        let name = path.to_string_lossy().into_owned();
        if let Some(digest) = self.find(&name, &state) {
            return Ok(digest);
        }
        let digest = content(&path, state.size).map_err(fault)?;
        // A file that changes while it is read has no state to be known by.
        if State::of(&fs::metadata(&path).map_err(fault)?) == state {
            let digest = digest.clone();
            self.add(name, Remembered { state, digest });
        }
        Ok(digest)
    }

    fn find(&self, name: &str, state: &State) -> Option<String> {
        let mut known = self.known();
        if !known.contains_key(name) {
            known.extend(self.read());
        }
        let found = known.get(name).filter(|found| found.state == *state)?;
        Some(found.digest.clone())
    }

    fn add(&self, name: String, found: Remembered) {
        let mut known = self.known();
        // Other processes remember theirs meanwhile.
        known.extend(self.read());
        known.insert(name, found);
        self.write(known.clone());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Known {
        let bytes = self
            .remembered
            .as_ref()
            .and_then(|file| read_file(file).ok());
        let known = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        known.unwrap_or_default()
    }

    /// Remembers the hashes of files that still exist. Without room or permission they are
    /// computed again next time.
    fn write(&self, mut known: Known) {
        let Some(file) = &self.remembered else { return };
        known.retain(|path, _| Path::new(path).exists());
        let folder = file.parent().unwrap_or(Path::new("."));
        if let (Ok(()), Ok(json)) = (fs::create_dir_all(folder), serde_json::to_vec(&known)) {
            let _ = write_file(file, &json, Existing::Replace);
        }
    }
}

impl State {
    fn of(found: &Metadata) -> Self {
        let modified = found.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        #[cfg(unix)]
        let (inode, changed) = {
            use std::os::unix::fs::MetadataExt;
            let changed =
                i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec());
            (found.ino(), changed.unsigned_abs())
        };
        #[cfg(not(unix))]
        let (inode, changed) = (0, 0);
        Self {
            size: found.len(),
            changed: [modified.unwrap_or_default().as_nanos(), changed],
            inode,
        }
    }
}

/// The name of a large file in the hub's cache: the SHA-256 of its content.
fn blob_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let is_digest = name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit());
    let is_blob = path.parent()?.file_name()? == "blobs";
    (is_digest && is_blob).then(|| name.to_lowercase())
}

/// The hash of the hashes of a file's parts, which are computed in parallel.
fn content(file: &Path, length: u64) -> io::Result<String> {
    let part = |index: u64| -> io::Result<[u8; 32]> {
        let mut reader = File::open(file)?;
        reader.seek(SeekFrom::Start(index * CHUNK))?;
        let mut hash = Sha256::new();
        io::copy(&mut reader.take(CHUNK), &mut hash)?;
        Ok(hash.finalize().into())
    };
    let parts = (0..length.div_ceil(CHUNK)).into_par_iter().map(part);
    let parts: Vec<_> = parts.collect::<io::Result<_>>()?;
    Ok(hex(&parts.concat()))
}

/// SHA-256 in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn any_byte_changes_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        let mut bytes = vec![7u8; (2 * CHUNK + 5) as usize];
        let mut digests = Vec::new();
        for change in [
            None,
            Some(0),
            Some(CHUNK - 1),
            Some(CHUNK),
            Some(2 * CHUNK + 4),
        ] {
            if let Some(place) = change {
                bytes[place as usize] ^= 1;
            }
            fs::write(&file, &bytes).unwrap();
            digests.push(Digests::default().of(&Source::from(&file)).unwrap());
        }
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 5);
    }

    #[test]
    fn a_remembered_hash_is_used_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory) = (folder.path().join("x"), folder.path().join("a/digests"));
        let digests = Digests::remembered_in(&memory);
        let source = Source::from(&file);
        let content = File::create(&file).unwrap();
        content.set_len(LARGE).unwrap(); // without using the disk
        let first = digests.of(&source).unwrap();
        let kept = fs::read_to_string(&memory).unwrap();
        assert!(kept.contains(&first));

        fs::write(&memory, kept.replace(&first, "remembered")).unwrap();
        assert_eq!(digests.of(&source).unwrap(), first, "known to this process");
        let digests = Digests::remembered_in(&memory);
        assert_eq!(digests.of(&source).unwrap(), "remembered");
        (&content).write_all(b"1").unwrap();
        let second = digests.of(&source).unwrap();
        assert!(second != first && second != "remembered");
        assert_eq!(second, Digests::default().of(&source).unwrap());
    }

    #[test]
    fn blobs_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        fs::create_dir(&blobs).unwrap();
        let name = "0123456789abcdef".repeat(4);
        fs::write(blobs.join(&name), "x").unwrap();
        fs::write(folder.path().join(&name), "x").unwrap();
        let of = |file: PathBuf| Digests::default().of(&Source::from(&file)).unwrap();
        assert_eq!(of(blobs.join(&name)), name);
        assert_ne!(of(folder.path().join(&name)), name);
    }
}
