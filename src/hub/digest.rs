//! Hashes of files, as listed by the hub.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A hash of a file, which is also the file's name in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256 of the content, in hexadecimal: large files.
    Sha256(String),
    /// Git blob id of the content (SHA-1 of a header and the content), in hexadecimal:
    /// small files.
    Blob(String),
}

impl Digest {
    /// Parses the name of a blob in the cache.
    pub fn parse(name: &str) -> Option<Self> {
        let is_hex = name
            .bytes()
            .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        match name.len() {
            64 if is_hex => Some(Self::Sha256(name.into())),
            40 if is_hex => Some(Self::Blob(name.into())),
            _ => None,
        }
    }

    /// The hexadecimal digits.
    pub fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::Blob(name) => name,
        }
    }

    /// Whether the content of `file` has this digest. `seen` is called with the number of
    /// bytes of each read.
    pub fn matches(&self, file: &Path, seen: &mut dyn FnMut(u64)) -> io::Result<bool> {
        let file = File::open(file)?;
        let length = file.metadata()?.len();
        let found = match self {
            Self::Sha256(_) => hash(Sha256::new(), file, seen)?,
            Self::Blob(_) => {
                let header = format!("blob {length}\0");
                hash(Sha1::new_with_prefix(header), file, seen)?
            }
        };
        Ok(found == self.name())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn hash(
    mut hasher: impl sha2::Digest,
    mut file: File,
    seen: &mut dyn FnMut(u64),
) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                seen(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digits = hasher
        .finalize()
        .into_iter()
        .map(|byte| format!("{byte:02x}"));
    Ok(digits.collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests that `sha256sum` and `git hash-object` give.
    #[test]
    fn known_contents_have_their_known_digests() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        std::fs::write(&file, "hello\n").unwrap();
        let fits = |name: &str| {
            let mut read = 0;
            let fits = Digest::parse(name)
                .unwrap()
                .matches(&file, &mut |n| read += n);
            assert_eq!(read, 6);
            fits.unwrap()
        };
        assert!(fits(
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        ));
        assert!(fits("ce013625030ba8dba906f756967f9e9ca394464a"));
        assert!(!fits("ce013625030ba8dba906f756967f9e9ca394464b"));
        assert_eq!(Digest::parse("ce01"), None);
        assert_eq!(Digest::parse(&"x".repeat(40)), None);
    }
}
