//! Files and folders as a person names them.

use std::path::Path;

use super::{Home, Need, Repository, home::joined, repository::is_inside};
use crate::{
    error::{Error, Result},
    source::Source,
};

/// A file or folder as a person names it: a path, `hub:owner/name[@revision][/file]`,
/// or a part of a model that is part of the program.
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
        let mut parts = hub.splitn(3, '/');
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
            return Err(Error::setting(format!(
                "{text:?}: write hub:owner/name or hub:owner/name/file"
            )));
        };
        let home = Home::hub(format!("{owner}/{name}").parse::<Repository>()?);
        match parts.next() {
            None | Some("") => Ok(Self::Folder(home)),
            Some(file) if !is_inside(file) => Err(Error::setting(format!(
                "{text:?} names no file of a repository"
            ))),
            Some(file) => Ok(Self::File(home, file.into())),
        }
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

    /// The need of the file it names, or of the first of `names` in the folder
    /// it names, where that is on the hub.
    pub fn need(&self, names: &[&str], optional: bool) -> Option<Need> {
        let (repository, names) = self.on_hub(names)?;
        Some(Need {
            repository,
            names,
            optional,
        })
    }

    /// Where it lies on the hub: the repository, and the file it names or those
    /// of `names` in the folder it names.
    fn on_hub(&self, names: &[&str]) -> Option<(Repository, Vec<String>)> {
        let Home::Hub(repository, folder) = self.home() else {
            return None;
        };
        let names = match self {
            Self::File(_, name) => vec![joined(folder, name)],
            Self::Folder(_) => names.iter().map(|name| joined(folder, name)).collect(),
        };
        Some((repository.clone(), names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_references_name_a_repository_or_a_file_in_it() {
        let parse = |text| Reference::parse(text, Path::new(".")).unwrap();
        let home = Home::hub(Repository::new("a/b"));
        assert_eq!(parse("hub:a/b"), Reference::Folder(home.clone()));
        assert_eq!(
            parse("hub:a/b/c/d.safetensors"),
            Reference::File(home, "c/d.safetensors".into())
        );
        let pinned = Home::hub("a/b@v1".parse().unwrap());
        assert_eq!(
            parse("hub:a/b@v1/c.pt"),
            Reference::File(pinned, "c.pt".into())
        );
        for bad in [
            "hub:",
            "hub:a",
            "hub:/",
            "hub:a/b/../c",
            "hub:a/b//c",
            "no/such/file",
        ] {
            assert!(Reference::parse(bad, Path::new(".")).is_err(), "{bad}");
        }
    }
}
