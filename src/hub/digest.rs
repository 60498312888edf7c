//! Hashes of files, as listed by the hub.

use std::{
    fmt,
    io::{self, BufReader, Read, Write},
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256, digest::Output};

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
    /// Parses the name of a blob in the cache, or a hash as a hub writes it: also in capital
    /// letters, or after `sha256:`.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = name.bytes().all(|c| c.is_ascii_hexdigit());
        match name.len() {
            64 if is_hex => Some(Self::Sha256(name.to_ascii_lowercase())),
            40 if is_hex => Some(Self::Blob(name.to_ascii_lowercase())),
            _ => None,
        }
    }

    /// The hexadecimal digits.
    pub fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::Blob(name) => name,
        }
    }

    /// Whether content of `length` bytes has this digest.
    pub fn matches(&self, content: impl Read, length: u64) -> io::Result<bool> {
        let found = match self {
            Self::Sha256(_) => hash(Sha256::new(), content)?,
            Self::Blob(_) => {
                let header = format!("blob {length}\0");
                hash(Sha1::new_with_prefix(header), content)?
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

/// The hash of the content in hexadecimal.
fn hash<D>(mut hasher: D, content: impl Read) -> io::Result<String>
where
    D: sha2::Digest + Write,
    Output<D>: fmt::LowerHex,
{
    let mut content = BufReader::with_capacity(1 << 20, content);
    io::copy(&mut content, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests that `sha256sum` and `git hash-object` give.
    #[test]
    fn known_contents_have_their_known_digests() {
        let fits = |name: &str| {
            let digest = Digest::parse(name).unwrap();
            digest.matches(&b"hello\n"[..], 6).unwrap()
        };
        assert!(fits(
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        ));
        assert!(fits("ce013625030ba8dba906f756967f9e9ca394464a"));
        assert!(!fits("ce013625030ba8dba906f756967f9e9ca394464b"));
        assert!(fits("CE013625030BA8DBA906F756967F9E9CA394464A"));
        assert_eq!(Digest::parse("ce01"), None);
        assert_eq!(Digest::parse(&"x".repeat(40)), None);
    }
}
