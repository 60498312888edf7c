//! Folders of files, wherever they are.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{Cache, Reference, Repository, repository::is_inside};
use crate::{
    error::{Error, Result},
    source::Source,
};

/// A folder of files: local, in a repository of the hub, or part of the program.
#[derive(Clone, PartialEq, Eq)]
pub enum Home {
    /// A local folder.
    Folder(PathBuf),
    /// A repository and a folder in it, which is empty for all of it.
    Hub(Repository, String),
    /// Files that are part of the program, and the name of their folder.
    BuiltIn(PathBuf, Vec<BuiltInFile>),
}

/// The path of a file in its folder, and its bytes.
pub type BuiltInFile = (&'static str, &'static [u8]);

impl Home {
    /// All of a repository.
    pub fn hub(repository: Repository) -> Self {
        Self::Hub(repository, String::new())
    }

    /// A file that must exist; one of the hub must lie in the cache.
    pub fn file(&self, name: &str) -> Result<Source> {
        match self {
            Self::Folder(folder) => {
                let file = folder.join(name);
                match file.exists() {
                    true => Ok(file.into()),
                    false => Err(Error::config(&file, "it is missing from the model folder")),
                }
            }
            Self::Hub(repository, folder) => cached(repository, &joined(folder, name)),
            Self::BuiltIn(home, files) => {
                let path = home.join(name);
                match files.iter().find(|(file, _)| *file == name) {
                    Some((_, bytes)) => Ok(Source::built_in(path, bytes)),
                    None => Err(Error::config(&path, "it is no part of the built-in model")),
                }
            }
        }
    }

    /// The first of several files that exists; the error is that of the first.
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

    /// Whether the folder has the file or folder; of a repository counts what
    /// the cache has.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).exists(),
            Self::Hub(repository, folder) => Cache::from_env()
                .file(repository, &joined(folder, name))
                .is_some(),
            Self::BuiltIn(_, files) => files
                .iter()
                .any(|(file, _)| Path::new(file).starts_with(name)),
        }
    }

    /// The folder, or what stands for one.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Folder(folder) | Self::BuiltIn(folder, _) => folder.clone(),
            Self::Hub(repository, folder) => joined(&repository.to_string(), folder).into(),
        }
    }

    /// What a name means that is written in a file of this folder: one of its
    /// files or folders, or `hub:owner/name[@revision][/file]`.
    pub fn reference(&self, text: &str) -> Result<Reference> {
        match self {
            Self::Folder(folder) => Reference::parse(text, folder),
            Self::BuiltIn(_, files) if files.iter().any(|(file, _)| *file == text) => {
                Ok(Reference::File(self.clone(), text.into()))
            }
            Self::BuiltIn(..) if self.has(text) => Ok(Reference::Folder(self.within(text))),
            Self::Hub(..) if !text.starts_with("hub:") && !is_inside(text) => {
                let reason = format!("it names {text:?}, which lies outside of it");
                Err(Error::config(self.path(), reason))
            }
            Self::Hub(..) if !text.starts_with("hub:") => Ok(match text.contains('.') {
                true => Reference::File(self.clone(), text.into()),
                false => Reference::Folder(self.within(text)),
            }),
            Self::BuiltIn(..) | Self::Hub(..) => Reference::parse(text, Path::new("")),
        }
    }

    /// A folder in this one.
    pub fn within(&self, folder: &str) -> Self {
        let below = |&(file, bytes): &BuiltInFile| {
            let name = Path::new(file).strip_prefix(folder).ok()?.to_str()?;
            Some((name, bytes))
        };
        match self {
            Self::Folder(home) => Self::Folder(home.join(folder)),
            Self::Hub(repository, home) => Self::Hub(repository.clone(), joined(home, folder)),
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

fn cached(repository: &Repository, name: &str) -> Result<Source> {
    let cache = Cache::from_env();
    let missing = || Error::Hub {
        what: format!("{repository}/{name}"),
        reason: format!(
            "it is not in the cache {}; icd model fetch brings what a model needs",
            cache.root().display()
        ),
    };
    let file = cache.file(repository, name).ok_or_else(missing)?;
    Ok(file.into())
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Folder(_) => "Folder",
            Self::Hub(..) => "Hub",
            Self::BuiltIn(..) => "BuiltIn", // without megabytes of its bytes
        };
        f.debug_tuple(kind).field(&self.path()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_program_are_found_by_name() {
        let home = Home::BuiltIn("toy".into(), vec![("unet/config.json", b"{}")]);
        let found = home.first("unet", &["none.json", "config.json"]).unwrap();
        assert_eq!(found.text().unwrap(), "{}");
        assert!(home.has("unet") && home.has("unet/config.json") && !home.has("un"));
        for (name, inside) in [("unet", "config.json"), ("unet/config.json", "")] {
            let found = home.reference(name).unwrap().file(&[inside]).unwrap();
            assert_eq!(found.name(), Path::new("toy/unet/config.json"));
        }
        let error = home.file("vae/config.json").unwrap_err().to_string();
        assert!(error.contains("toy/vae/config.json"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let home = Home::Folder("nowhere".into());
        let error = home
            .first("vae", &["a.safetensors", "b.safetensors"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("nowhere/vae/a.safetensors"), "{error}");
    }

    #[test]
    fn folders_of_a_repository_nest() {
        let home = Home::hub(Repository::new("a/b"));
        assert_eq!(home.within("x").within("y").path(), Path::new("a/b/x/y"));
        let file = home.reference("unet/w.safetensors").unwrap();
        assert_eq!(
            file,
            Reference::File(home.clone(), "unet/w.safetensors".into())
        );
        assert!(home.reference("../../w.safetensors").is_err());
        let error = home.within("x").file("y.json").unwrap_err().to_string();
        assert!(
            error.contains("a/b/x/y.json") && error.contains("icd model fetch"),
            "{error}"
        );
    }
}
