//! Files to read: on disk or built into the program.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
};

use super::{read_file, text};
use crate::error::{Error, Result};

/// A file to read, on disk or built into the program.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    name: PathBuf,
    built_in: Option<BuiltIn>,
}

/// A file built into the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its content.
    pub bytes: &'static [u8],
    /// SHA-256 of the content in hexadecimal, if it is known.
    pub sha256: Option<&'static str>,
}

impl From<&'static [u8]> for BuiltIn {
    fn from(bytes: &'static [u8]) -> Self {
        Self {
            bytes,
            sha256: None,
        }
    }
}

impl Source {
    /// Creates a file built into the program; `name` is used in messages, and its last
    /// component as the file name.
    pub fn built_in(name: impl Into<PathBuf>, file: impl Into<BuiltIn>) -> Self {
        Self {
            name: name.into(),
            built_in: Some(file.into()),
        }
    }

    /// The path, or the name of a built-in file.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The file, if it is built into the program.
    pub fn in_program(&self) -> Option<BuiltIn> {
        self.built_in
    }

    /// Reads the whole file.
    pub fn bytes(&self) -> Result<Cow<'static, [u8]>> {
        match self.built_in {
            Some(file) => Ok(file.bytes.into()),
            None => read_file(&self.name)
                .map(Cow::Owned)
                .map_err(|error| Error::io(&self.name, error)),
        }
    }

    /// Reads the whole file, which must be UTF-8, as its writer meant it: without a byte
    /// order mark, with `\n` at the ends of lines.
    pub fn text(&self) -> Result<String> {
        let text = text::decoded(self.bytes()?.into_owned());
        text.map_err(|reason| Error::config(&self.name, reason))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

impl AsRef<Path> for Source {
    fn as_ref(&self) -> &Path {
        &self.name
    }
}

impl From<&Self> for Source {
    fn from(source: &Self) -> Self {
        source.clone()
    }
}

impl From<PathBuf> for Source {
    fn from(name: PathBuf) -> Self {
        Self {
            name,
            built_in: None,
        }
    }
}

impl From<&PathBuf> for Source {
    fn from(name: &PathBuf) -> Self {
        name.clone().into()
    }
}

impl From<&Path> for Source {
    fn from(name: &Path) -> Self {
        name.to_path_buf().into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_of_the_program_is_read_like_one_on_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::write(&file, "{}").unwrap();
        for source in [
            Source::from(&file),
            Source::built_in("shapes/a.json", &b"{}"[..]),
        ] {
            assert_eq!(source.text().unwrap(), "{}");
            assert!(source.name().ends_with("a.json"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let missing = Source::from(Path::new("no/such/file")).bytes().unwrap_err();
        assert!(missing.to_string().contains("no/such/file"), "{missing}");
        let binary = Source::built_in("x.txt", &b"\xff\xfe"[..])
            .text()
            .unwrap_err();
        assert!(binary.to_string().contains("x.txt"), "{binary}");
    }
}
