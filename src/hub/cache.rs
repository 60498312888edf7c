//! The cache on this machine, in the layout that all programs of the hub share:
//! contents named by their digests, and snapshots of repositories that point to
//! them (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::{Digest, Repository};
use crate::error::{Error, Result};

/// The cache's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache that `HF_HUB_CACHE`, else `HF_HOME`, else `XDG_CACHE_HOME` name,
    /// else the usual one in the home folder.
    pub fn from_env() -> Self {
        let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let root = named("HF_HUB_CACHE").map(PathBuf::from);
        Self::new(root.unwrap_or_else(|| home().join("hub")))
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file of a repository, where the cache has it.
    pub fn file(&self, repository: &Repository, name: &str) -> Option<PathBuf> {
        let file = self.snapshot(repository)?.join(name);
        file.exists().then_some(file)
    }

    /// The folder of a repository's files, where the cache knows its state.
    pub fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        let commit = match repository.is_pinned() {
            true => repository.revision.clone(),
            false => self.commit(repository)?,
        };
        Some(self.layout(repository).pointer_path(&commit))
    }

    /// The commit that a branch or tag was when it was last fetched.
    fn commit(&self, repository: &Repository) -> Option<String> {
        let refs = self.folder(repository).join("refs");
        let commit = fs::read_to_string(refs.join(&repository.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    /// All that belongs to a repository.
    fn folder(&self, repository: &Repository) -> PathBuf {
        self.root.join(repo(repository).folder_name())
    }

    fn layout(&self, repository: &Repository) -> CacheRepo {
        hf_hub::Cache::new(self.root.clone()).repo(repo(repository))
    }

    /// Where a content lies.
    pub(super) fn content(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.folder(repository).join("blobs").join(digest.name())
    }

    /// The file whose lock keeps others from fetching the same content.
    pub(super) fn lock_file(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        let folder = self
            .root
            .join(".locks")
            .join(repo(repository).folder_name());
        folder.join(format!("{digest}.lock"))
    }

    /// Names a content as a file of a commit.
    pub(super) fn point(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
        digest: &Digest,
    ) -> Result<PathBuf> {
        let file = self.layout(repository).pointer_path(commit).join(name);
        let content = self.content(repository, digest);
        let depth = Path::new(name).components().count();
        let up = PathBuf::from_iter(vec![".."; depth + 1]); // out of the snapshot's folders
        let target = up.join("blobs").join(digest.name());
        let fault = |error| Error::io(&file, error);
        fs::create_dir_all(file.parent().unwrap_or(&file)).map_err(fault)?;
        if same_content(&file, &content) {
            return Ok(file);
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => link(&target, &content, &file).map_err(fault)?,
        }
        Ok(file)
    }

    /// Remembers which commit a branch or tag is.
    pub(super) fn remember(&self, repository: &Repository, commit: &str) -> Result<()> {
        match repository.is_pinned() {
            true => Ok(()),
            false => self
                .layout(repository)
                .create_ref(commit)
                .map_err(|error| Error::io(self.folder(repository), error)),
        }
    }
}

fn repo(repository: &Repository) -> Repo {
    let Repository { id, revision } = repository.clone();
    Repo::with_revision(id, RepoType::Model, revision)
}

/// The folder of everything of the hub: cache and token.
pub(super) fn home() -> PathBuf {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let usual = || dirs::home_dir().unwrap_or_default().join(".cache");
    let caches = || named("XDG_CACHE_HOME").map_or_else(usual, PathBuf::from);
    named("HF_HOME").map_or_else(|| caches().join("huggingface"), PathBuf::from)
}

fn same_content(file: &Path, content: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(file).is_some_and(|file| real(content) == Some(file))
}

#[cfg(unix)]
fn link(target: &Path, _content: &Path, file: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, file)
}

/// Links take a privilege that not everybody has: else the file is a second
/// name of the content, or a copy.
#[cfg(not(unix))]
fn link(target: &Path, content: &Path, file: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target, file).is_ok() {
        return Ok(());
    }
    let _ = target;
    fs::hard_link(content, file).or_else(|_| fs::copy(content, file).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_the_branch_and_by_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let (branch, commit) = (Repository::new("a/b"), "0123456789".repeat(4));
        let digest = Digest::of_name(&"c".repeat(64)).unwrap();
        let content = cache.content(&branch, &digest);
        fs::create_dir_all(content.parent().unwrap()).unwrap();
        fs::write(&content, "weights").unwrap();

        assert_eq!(cache.file(&branch, "unet/x"), None);
        for _ in 0..2 {
            let made = cache.point(&branch, &commit, "unet/x", &digest).unwrap();
            cache.remember(&branch, &commit).unwrap();
            assert_eq!(cache.file(&branch, "unet/x"), Some(made));
        }
        let pinned = format!("a/b@{commit}").parse().unwrap();
        let file = cache.file(&pinned, "unet/x").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "weights");
        let expected = folder
            .path()
            .join("models--a--b/snapshots")
            .join(&commit)
            .join("unet/x");
        assert_eq!(file, expected);
        assert_eq!(cache.file(&branch, "unet/y"), None);
    }
}
