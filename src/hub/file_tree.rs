//! Folders of files: local, on the hub, or built into the program.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{Cache, Location, Repository, repository::is_inside};
use crate::{
    error::{Error, Result},
    io::{BuiltIn, Source},
};

/// A folder of files: local, in a repository of the hub, or built into the program.
#[derive(Clone, PartialEq, Eq)]
pub enum FileTree {
    /// A local folder.
    Folder(PathBuf),
    /// A folder of a repository in a cache; the empty string for all of the repository.
    Hub(Cache, Repository, String),
    /// Files built into the program, and the name of their folder.
    BuiltIn(PathBuf, Vec<BuiltInFile>),
}

/// The path of a built-in file in its folder, and the file.
pub type BuiltInFile = (&'static str, BuiltIn);

impl FileTree {
    /// All of a repository in a cache.
    pub fn hub(cache: &Cache, repository: Repository) -> Self {
        Self::Hub(cache.clone(), repository, String::new())
    }

    /// Returns a file, which must exist (on the hub: in the cache).
    pub fn file(&self, name: &str) -> Result<Source> {
        match self {
            Self::Folder(folder) => {
                let file = folder.join(name);
                match file.exists() {
                    true => Ok(file.into()),
                    false => Err(Error::config(&file, "it is missing from the model folder")),
                }
            }
            Self::Hub(cache, repository, folder) => {
                let name = joined(folder, name);
                let root = cache.root()?.display();
                let reason = || format!("it is not in the cache {root}: download the model first");
                let file = cache.file(repository, &name).map(Source::from);
                file.ok_or_else(|| Error::hub(format!("{repository}/{name}"), reason()))
            }
            Self::BuiltIn(home, files) => {
                let path = home.join(name);
                match files.iter().find(|(file, _)| *file == name) {
                    Some(&(_, file)) => Ok(Source::built_in(path, file)),
                    None => Err(Error::config(&path, "it is not part of the built-in model")),
                }
            }
        }
    }

    /// Returns the first of several files that exists; the error is that of the first.
    pub fn first(&self, folder: &str, names: &[&str]) -> Result<Source> {
        let mut missing = None;
        for name in names {
            match self.file(&joined(folder, name)) {
                Ok(file) => return Ok(file),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        Err(missing.unwrap_or_else(|| Error::setting("no file names were given")))
    }

    /// Whether the folder contains the file or folder (on the hub: in the cache).
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).exists(),
            Self::Hub(cache, repository, folder) => {
                cache.file(repository, &joined(folder, name)).is_some()
            }
            Self::BuiltIn(_, files) => files
                .iter()
                .any(|(file, _)| Path::new(file).starts_with(name)),
        }
    }

    /// The path of the folder, or its name on the hub or in the program.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Folder(folder) | Self::BuiltIn(folder, _) => folder.clone(),
            Self::Hub(_, repository, folder) => joined(&repository.to_string(), folder).into(),
        }
    }

    /// Resolves a reference in a file of this folder: one of its files or folders, or
    /// `hub:owner/name[@revision][/file]`.
    pub fn reference(&self, text: &str, cache: &Cache) -> Result<Location> {
        match self {
            Self::Folder(folder) => Location::parse(text, folder, cache),
            Self::BuiltIn(_, files) if files.iter().any(|(file, _)| *file == text) => {
                Ok(Location::File(self.clone(), text.into()))
            }
            Self::BuiltIn(..) if self.has(text) => Ok(Location::Folder(self.within(text))),
            Self::Hub(..) if Location::on_hub(text).is_none() && !is_inside(text) => {
                let reason = format!("it refers to {text:?}, which is outside of it");
                Err(Error::config(self.path(), reason))
            }
            Self::Hub(..) if Location::on_hub(text).is_none() => Ok(match text.contains('.') {
                true => Location::File(self.clone(), text.into()),
                false => Location::Folder(self.within(text)),
            }),
            Self::BuiltIn(..) | Self::Hub(..) => Location::parse(text, Path::new(""), cache),
        }
    }

    /// Returns a subfolder.
    pub fn within(&self, folder: &str) -> Self {
        let below = |&(name, file): &BuiltInFile| {
            let name = Path::new(name).strip_prefix(folder).ok()?.to_str()?;
            Some((name, file))
        };
        match self {
            Self::Folder(home) => Self::Folder(home.join(folder)),
            Self::Hub(cache, repository, home) => {
                Self::Hub(cache.clone(), repository.clone(), joined(home, folder))
            }
            Self::BuiltIn(home, files) => {
                Self::BuiltIn(home.join(folder), files.iter().filter_map(below).collect())
            }
        }
    }
}

/// A path in a repository.
pub(super) fn joined(folder: &str, name: &str) -> String {
    match (folder, name) {
        ("", only) | (only, "") => only.into(),
        _ => format!("{folder}/{name}"),
    }
}

impl fmt::Debug for FileTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Folder(_) => "Folder",
            Self::Hub(..) => "Hub",
            Self::BuiltIn(..) => "BuiltIn", // without the bytes
        };
        f.debug_tuple(kind).field(&self.path()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        Cache::new("no/such/cache")
    }

    #[test]
    fn files_of_the_program_are_found_by_name() {
        let home = FileTree::BuiltIn(
            "toy".into(),
            vec![("unet/config.json", (&b"{}"[..]).into())],
        );
        let found = home.first("unet", &["none.json", "config.json"]).unwrap();
        assert_eq!(found.text().unwrap(), "{}");
        assert!(home.has("unet") && home.has("unet/config.json") && !home.has("un"));
        for (name, inside) in [("unet", "config.json"), ("unet/config.json", "")] {
            let found = home
                .reference(name, &cache())
                .unwrap()
                .file(&[inside])
                .unwrap();
            assert_eq!(found.name(), Path::new("toy/unet/config.json"));
        }
        let error = home.file("vae/config.json").unwrap_err().to_string();
        assert!(error.contains("toy/vae/config.json"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let home = FileTree::Folder("nowhere".into());
        let error = home
            .first("vae", &["a.safetensors", "b.safetensors"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("nowhere/vae/a.safetensors"), "{error}");
    }

    #[test]
    fn folders_of_a_repository_nest() {
        let home = FileTree::hub(&cache(), Repository::new("a/b"));
        assert_eq!(home.within("x").within("y").path(), Path::new("a/b/x/y"));
        let file = home.reference("unet/w.safetensors", &cache()).unwrap();
        assert_eq!(
            file,
            Location::File(home.clone(), "unet/w.safetensors".into())
        );
        let other = home.reference("hf://c/d/w.safetensors", &cache()).unwrap();
        assert_eq!(other.home().path(), Path::new("c/d"));
        assert!(home.reference("../../w.safetensors", &cache()).is_err());
        let error = home.within("x").file("y.json").unwrap_err().to_string();
        assert!(
            error.contains("a/b/x/y.json") && error.contains("download the model"),
            "{error}"
        );
    }
}
