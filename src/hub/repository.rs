//! Repositories of the hub.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

const DEFAULT_REVISION: &str = "main";

/// A repository `owner/name` of models, at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// `owner/name`.
    pub id: String,
    /// A branch, a tag or the full hash of a commit.
    pub revision: String,
}

impl Repository {
    /// The main branch of the repository `owner/name`.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            revision: DEFAULT_REVISION.into(),
        }
    }

    /// Whether its revision is a commit.
    pub fn is_pinned(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|c| c.is_ascii_hexdigit())
    }
}

impl FromStr for Repository {
    type Err = Error;

    /// Parses `owner/name` or `owner/name@revision`.
    fn from_str(text: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let parts: Vec<_> = id.split('/').collect();
        match parts.len() == 2 && parts.iter().all(|part| is_name(part)) && is_name(revision) {
            true => Ok(Self {
                id: id.into(),
                revision: revision.into(),
            }),
            false => Err(Error::setting(format!(
                "{text:?} is not a repository of the hub: write owner/name or owner/name@revision"
            ))),
        }
    }
}

/// Whether a name is valid in paths of the hub and of the cache. A branch with a slash
/// is not and must be referred to by its commit.
fn is_name(word: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    !word.is_empty() && !word.starts_with('.') && word.bytes().all(fits)
}

/// Whether a path in a repository stays inside its folder and a terminal can show it.
pub(super) fn is_inside(path: &str) -> bool {
    let fits = |part| !matches!(part, "" | "." | "..");
    !path.contains(|char: char| char == '\\' || char.is_control()) && path.split('/').all(fits)
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        match self.revision == DEFAULT_REVISION {
            true => Ok(()),
            false => write!(f, "@{}", self.revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown_alike() {
        for text in ["a/b", "a-1/b.c_d", "a/b@v1.0"] {
            assert_eq!(text.parse::<Repository>().unwrap().to_string(), text);
        }
        assert_eq!(
            "a/b@main".parse::<Repository>().unwrap(),
            Repository::new("a/b")
        );
        let commit = format!("a/b@{}", "0a".repeat(20));
        assert!(commit.parse::<Repository>().unwrap().is_pinned());
    }

    #[test]
    fn paths_that_lead_out_are_found() {
        for inside in ["a", "a/b.json", ".gitattributes", "a/..b"] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in [
            "", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\..\\b", "a\nb",
        ] {
            assert!(!is_inside(outside), "{outside}");
        }
    }

    #[test]
    fn names_that_could_leave_the_cache_are_errors() {
        for text in [
            "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a b/c", "a/b@x/y",
        ] {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
    }
}
