//! Where files come from: a folder, a repository of the hub whose files are
//! fetched on first use into the standard cache, or the program itself.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use hf_hub::api::sync::ApiBuilder;

use crate::{
    error::{Error, Result},
    source::Source,
};

/// A folder of files: local, on the hub, or part of the program.
#[derive(Clone, PartialEq, Eq)]
pub enum Home {
    /// A local folder.
    Folder(PathBuf),
    /// A repository `owner/name`.
    Hub(String),
    /// Files that are part of the program, and the name of their folder.
    BuiltIn(PathBuf, Vec<BuiltInFile>),
}

/// The path of a file in its folder, and its bytes.
pub type BuiltInFile = (&'static str, &'static [u8]);

impl Home {
    /// A file that must exist, fetched if need be.
    pub fn file(&self, name: &str) -> Result<Source> {
        match self {
            Self::Folder(folder) => {
                let file = folder.join(name);
                match file.exists() {
                    true => Ok(file.into()),
                    false => Err(Error::config(&file, "it is missing from the model folder")),
                }
            }
            Self::Hub(repository) => Ok(fetch(repository, name)?.into()),
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
            let name = if folder.is_empty() {
                (*name).to_string()
            } else {
                format!("{folder}/{name}")
            };
            match self.file(&name) {
                Ok(file) => return Ok(file),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        Err(missing.unwrap_or_else(|| Error::setting("no file names were given")))
    }

    /// Whether a folder has the file or folder; hub repositories are not asked.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).exists(),
            Self::Hub(_) => false,
            Self::BuiltIn(_, files) => files
                .iter()
                .any(|(file, _)| Path::new(file).starts_with(name)),
        }
    }

    /// The folder, or what stands for one.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) | Self::BuiltIn(folder, _) => folder,
            Self::Hub(repository) => Path::new(repository),
        }
    }

    /// What a name means that is written in a file of this folder: one of its
    /// files or folders, or `hub:owner/name[/file]`.
    pub fn reference(&self, text: &str) -> Result<Reference> {
        match self {
            Self::Folder(folder) => Reference::parse(text, folder),
            Self::BuiltIn(_, files) if files.iter().any(|(file, _)| *file == text) => {
                Ok(Reference::File(self.clone(), text.into()))
            }
            Self::BuiltIn(..) if self.has(text) => Ok(Reference::Folder(self.within(text))),
            Self::BuiltIn(..) | Self::Hub(_) => Reference::parse(text, Path::new("")),
        }
    }

    /// A folder in this one. A repository's are named by their files alone.
    pub fn within(&self, folder: &str) -> Self {
        let below = |&(file, bytes): &BuiltInFile| {
            let name = Path::new(file).strip_prefix(folder).ok()?.to_str()?;
            Some((name, bytes))
        };
        match self {
            Self::Folder(home) => Self::Folder(home.join(folder)),
            Self::Hub(_) => self.clone(),
            Self::BuiltIn(home, files) => {
                Self::BuiltIn(home.join(folder), files.iter().filter_map(below).collect())
            }
        }
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Folder(_) => "Folder",
            Self::Hub(_) => "Hub",
            Self::BuiltIn(..) => "BuiltIn", // without megabytes of its bytes
        };
        f.debug_tuple(kind).field(&self.path()).finish()
    }
}

/// A file or folder as a person names it: a path, `hub:owner/name[/file]`, or a
/// part of a model that is part of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// One file, local or on the hub.
    File(Home, String),
    /// A whole folder.
    Folder(Home),
}

impl Reference {
    /// Reads a reference; a relative path starts at `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self> {
        match text.strip_prefix("hub:") {
            Some(hub) => Self::parse_hub(text, hub),
            None => Self::parse_path(&base.join(text)),
        }
    }

    fn parse_hub(text: &str, hub: &str) -> Result<Self> {
        let mut parts = hub.splitn(3, '/').filter(|part| !part.is_empty());
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
            return Err(Error::setting(format!(
                "{text:?}: write hub:owner/name or hub:owner/name/file"
            )));
        };
        let home = Home::Hub(format!("{owner}/{name}"));
        Ok(match parts.next() {
            Some(file) => Self::File(home, file.into()),
            None => Self::Folder(home),
        })
    }

    fn parse_path(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(Home::Folder(path.into())));
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|_| path.is_file());
        let name = name.ok_or_else(|| Error::config(path, "there is no such file"))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Ok(Self::File(Home::Folder(folder.into()), name.into()))
    }

    /// The folder it names or lies in.
    pub fn home(&self) -> &Home {
        match self {
            Self::File(home, _) | Self::Folder(home) => home,
        }
    }

    /// The file it names, or the first of `names` in the folder it names.
    pub fn file(&self, names: &[&str]) -> Result<Source> {
        match self {
            Self::File(home, name) => home.file(name),
            Self::Folder(home) => home.first("", names),
        }
    }
}

fn fetch(repository: &str, name: &str) -> Result<PathBuf> {
    let fault = |error: hf_hub::api::sync::ApiError| Error::Hub {
        what: format!("{repository}/{name}"),
        reason: format!(
            "{error}; without a network, put the files into a folder and name it with --model, \
             --unet and the two adapter flags"
        ),
    };
    let api = ApiBuilder::from_env().build().map_err(fault)?;
    api.model(repository.into()).get(name).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_references_name_a_repository_or_a_file_in_it() {
        let parse = |text| Reference::parse(text, Path::new(".")).unwrap();
        let home = Home::Hub("a/b".into());
        assert_eq!(parse("hub:a/b"), Reference::Folder(home.clone()));
        assert_eq!(
            parse("hub:a/b/c/d.safetensors"),
            Reference::File(home, "c/d.safetensors".into())
        );
        for bad in ["hub:", "hub:a", "hub:/", "no/such/file"] {
            assert!(Reference::parse(bad, Path::new(".")).is_err(), "{bad}");
        }
    }

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
}
