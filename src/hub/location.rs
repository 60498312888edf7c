//! Files and folders as named by the user.

use std::path::Path;

use super::{
    BuiltInFile, Cache, FileTree, Repository, RequiredFile,
    file_tree::joined,
    repository::{divided, is_inside},
};
use crate::{
    error::{Error, Result},
    io::{Source, is_special, kept},
};

/// A file or folder as named by the user: a path, `hub:owner/name[@revision][/file]`
/// (or `hf://owner/name..`), or a part of a built-in model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// One file, local or on the hub.
    File(FileTree, String),
    /// A whole folder.
    Folder(FileTree),
}

impl Location {
    /// Parses a path, relative to `base`, or a name on the hub, which refers to files in
    /// `cache`.
    pub fn parse(text: &str, base: &Path, cache: &Cache) -> Result<Self> {
        match Self::on_hub(text) {
            Some(hub) => Self::parse_hub(text, hub, cache),
            None => Self::parse_path(&base.join(text)),
        }
    }

    /// What follows `hub:` or `hf://` in a name on the hub; `None` for paths.
    pub fn on_hub(text: &str) -> Option<&str> {
        let hub = text.strip_prefix("hub:");
        hub.or_else(|| text.strip_prefix("hf://"))
    }

    fn parse_hub(text: &str, hub: &str, cache: &Cache) -> Result<Self> {
        let Some((repository, file)) = divided(hub) else {
            return Err(Error::setting(format!(
                "{text:?}: write hub:owner/name or hub:owner/name/file"
            )));
        };
        let home = FileTree::hub(cache, repository.parse::<Repository>()?);
        match file {
            None | Some("") => Ok(Self::Folder(home)),
            Some(file) if !is_inside(file) => Err(Error::setting(format!(
                "{text:?} is not a file of a repository"
            ))),
            Some(file) => Ok(Self::File(home, file.into())),
        }
    }

    fn parse_path(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(FileTree::Folder(path.into())));
        }
        if is_special(path) {
            return Self::parse_pipe(path);
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|_| path.is_file());
        let name = name.ok_or_else(|| Error::config(path, "there is no such file"))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Ok(Self::File(FileTree::Folder(folder.into()), name.into()))
    }

    /// A pipe, which needs no ending, as a file with the bytes that came out of it.
    fn parse_pipe(path: &Path) -> Result<Self> {
        let bytes = kept(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file: BuiltInFile = (String::leak(name.clone().into_owned()), bytes.into());
        Ok(Self::File(
            FileTree::BuiltIn(folder.into(), vec![file]),
            name.into_owned(),
        ))
    }

    /// The folder itself, or that of the file.
    pub fn home(&self) -> &FileTree {
        match self {
            Self::File(home, _) | Self::Folder(home) => home,
        }
    }

    /// The folder it names, or that of the file it names.
    pub fn folder(&self) -> FileTree {
        match self {
            Self::File(home, name) => match name.rsplit_once('/') {
                Some((folder, _)) => home.within(folder),
                None => home.clone(),
            },
            Self::Folder(home) => home.clone(),
        }
    }

    /// The file itself, or the first of `names` in the folder.
    pub fn file(&self, names: &[&str]) -> Result<Source> {
        match self {
            Self::File(home, name) => home.file(name),
            Self::Folder(home) => home.first("", names),
        }
    }

    /// The requirement of the file itself, or of the first of `names` in the folder, if
    /// it is on the hub.
    pub fn need(&self, names: &[&str], optional: bool) -> Option<RequiredFile> {
        let FileTree::Hub(_, repository, folder) = self.home() else {
            return None;
        };
        Some(RequiredFile {
            repository: repository.clone(),
            names: match self {
                Self::File(_, name) => vec![joined(folder, name)],
                Self::Folder(_) => names.iter().map(|name| joined(folder, name)).collect(),
            },
            optional,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_references_name_a_repository_or_a_file_in_it() {
        let cache = Cache::new("no/such/cache");
        let parse = |text: &str| Location::parse(text, Path::new("."), &cache).unwrap();
        let home = FileTree::hub(&cache, Repository::new("a/b"));
        assert_eq!(parse("hub:a/b"), Location::Folder(home.clone()));
        assert_eq!(
            parse("hub:a/b/c/d.safetensors"),
            Location::File(home, "c/d.safetensors".into())
        );
        for text in ["a/b", "a/b/c/d.safetensors", "a/b@v1/c.pt"] {
            assert_eq!(
                parse(&format!("hf://{text}")),
                parse(&format!("hub:{text}"))
            );
        }
        let pinned = FileTree::hub(&cache, "a/b@v1".parse().unwrap());
        assert_eq!(
            parse("hub:a/b@v1/c.pt"),
            Location::File(pinned, "c.pt".into())
        );
        for bad in [
            "hub:",
            "hub:a",
            "hub:/",
            "hub:a/b/../c",
            "hub:a/b//c",
            "hf://a",
            "hf:a/b",
            "no/such/file",
        ] {
            assert!(
                Location::parse(bad, Path::new("."), &cache).is_err(),
                "{bad}"
            );
        }
    }
}
