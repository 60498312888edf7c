//! Repositories of the hub.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

const DEFAULT_REVISION: &str = "main";

/// A repository `owner/name` of models, at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// `owner/name`.
    pub id: String,
    /// A branch, a tag, a reference such as `refs/pr/3`, or the full hash of a commit.
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
        let fault = || {
            Error::setting(format!(
                "{text:?} is not a repository of the hub: write owner/name or owner/name@revision"
            ))
        };
        let revision = percent_decode_str(revision).decode_utf8();
        let revision = revision.map_err(|_| fault())?;
        let parts: Vec<_> = id.split('/').collect();
        let is_named = parts.len() == 2 && parts.iter().all(|part| is_name(part));
        if !is_named || !revision.split('/').all(is_name) {
            return Err(fault());
        }
        let mut repository = Self {
            id: id.into(),
            revision: revision.into_owned(),
        };
        if repository.is_pinned() {
            repository.revision.make_ascii_lowercase();
        }
        Ok(repository)
    }
}

/// Divides `owner/name[@revision][/file]` into the repository and the file.
///
/// A slash ends the revision, except in the references of the hub, `refs/pr/3` and
/// `refs/convert/parquet`; in other revisions it is written `%2F`, as by `huggingface_hub`.
pub(super) fn divided(text: &str) -> Option<(&str, Option<&str>)> {
    let (_, name) = text.split_once('/')?;
    let name_at = text.len() - name.len();
    let slashes = match name.split_once('@') {
        Some((name, revision)) if revision.starts_with("refs/") && !name.contains('/') => 2,
        _ => 0,
    };
    let end = name.match_indices('/').nth(slashes);
    Some(match end {
        Some((end, _)) => (&text[..name_at + end], Some(&name[end + 1..])),
        None => (text, None),
    })
}

/// Whether a name is valid in paths of the hub and of the cache.
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
            false if self.revision.starts_with("refs/") => write!(f, "@{}", self.revision),
            false => write!(f, "@{}", self.revision.replace('/', "%2F")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown_alike() {
        for text in [
            "a/b",
            "a-1/b.c_d",
            "a/b@v1.0",
            "a/b@refs/pr/3",
            "a/b@my%2Fbranch",
        ] {
            assert_eq!(text.parse::<Repository>().unwrap().to_string(), text);
        }
        assert_eq!(
            "a/b@main".parse::<Repository>().unwrap(),
            Repository::new("a/b")
        );
        let commit = format!("a/b@{}", "0A".repeat(20));
        let pinned = commit.parse::<Repository>().unwrap();
        assert!(pinned.is_pinned() && pinned.revision == "0a".repeat(20));
        let branch = "a/b@my%2Fbranch".parse::<Repository>().unwrap();
        assert_eq!(branch.revision, "my/branch");
        assert_eq!("a/b@my/branch".parse::<Repository>().unwrap(), branch);
    }

    #[test]
    fn a_revision_ends_at_a_slash_that_is_not_its_own() {
        for (text, parts) in [
            ("a/b", Some(("a/b", None))),
            ("a/b/c/d", Some(("a/b", Some("c/d")))),
            ("a/b@v1/c", Some(("a/b@v1", Some("c")))),
            ("a/b@refs/pr/3", Some(("a/b@refs/pr/3", None))),
            ("a/b@refs/pr/3/c/d", Some(("a/b@refs/pr/3", Some("c/d")))),
            ("a/b@x%2Fy/c", Some(("a/b@x%2Fy", Some("c")))),
            ("a/b/c@refs/d", Some(("a/b", Some("c@refs/d")))),
            ("a", None),
        ] {
            assert_eq!(divided(text), parts, "{text}");
        }
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
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a b/c",
            "a/b@x/",
            "a/b@x//y",
            "a/b@%2e%2e/x",
            "a/b@x%2F..%2Fy",
            "a/b@%ff",
            "a/b@%00",
        ] {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
    }
}
