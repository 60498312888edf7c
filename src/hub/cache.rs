//! The local cache, in the layout shared by all programs that use the hub: blobs named
//! by their digests, and snapshots of repositories that link to them
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::{Digest, Repository};
use crate::error::{Error, Result};

/// A local cache of repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache named by `HF_HUB_CACHE`, else by `HF_HOME`, else by `XDG_CACHE_HOME`,
    /// else the default one in the home folder.
    pub fn from_env() -> Self {
        Self::new(path_in_env("HF_HUB_CACHE").unwrap_or_else(|| home().join("hub")))
    }

    /// The folder of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a repository, if it is in the cache.
    pub fn file(&self, repository: &Repository, name: &str) -> Option<PathBuf> {
        let file = self.snapshot(repository)?.join(name);
        file.exists().then_some(file)
    }

    /// The folder of a repository's files, if its commit is known.
    pub fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        let commit = match repository.is_pinned() {
            true => repository.revision.clone(),
            false => self.commit(repository)?,
        };
        Some(self.layout(repository).pointer_path(&commit))
    }

    /// The commit of a branch or tag when it was last fetched.
    fn commit(&self, repository: &Repository) -> Option<String> {
        let refs = self.folder(repository).join("refs");
        let commit = fs::read_to_string(refs.join(&repository.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    fn folder(&self, repository: &Repository) -> PathBuf {
        self.root.join(repo(repository).folder_name())
    }

    fn layout(&self, repository: &Repository) -> CacheRepo {
        hf_hub::Cache::new(self.root.clone()).repo(repo(repository))
    }

    /// The path of a blob.
    pub(super) fn blob(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.folder(repository).join("blobs").join(digest.name())
    }

    /// The lock file that keeps other processes from fetching the same blob.
    pub(super) fn lock_file(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        let name = repo(repository).folder_name();
        let folder = self.root.join(".locks").join(name);
        folder.join(format!("{digest}.lock"))
    }

    /// Links a file of a commit to its blob.
    pub(super) fn link(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
        digest: &Digest,
    ) -> Result<PathBuf> {
        let file = self.layout(repository).pointer_path(commit).join(name);
        let content = self.blob(repository, digest);
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

    /// Stores the commit of a branch or tag.
    pub(super) fn write_ref(&self, repository: &Repository, commit: &str) -> Result<()> {
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

/// The path in an environment variable, unless it is empty.
pub(super) fn path_in_env(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// The folder of the hub's cache and token.
pub(super) fn home() -> PathBuf {
    let default = || dirs::home_dir().unwrap_or_default().join(".cache");
    let caches = || path_in_env("XDG_CACHE_HOME").unwrap_or_else(default);
    path_in_env("HF_HOME").unwrap_or_else(|| caches().join("huggingface"))
}

fn same_content(file: &Path, content: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(file).is_some_and(|file| real(content) == Some(file))
}

#[cfg(unix)]
fn link(target: &Path, _content: &Path, file: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, file)
}

/// Symbolic links may need a privilege: without it, creates a hard link or a copy.
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
        let digest = Digest::parse(&"c".repeat(64)).unwrap();
        let content = cache.blob(&branch, &digest);
        fs::create_dir_all(content.parent().unwrap()).unwrap();
        fs::write(&content, "weights").unwrap();

        assert_eq!(cache.file(&branch, "unet/x"), None);
        for _ in 0..2 {
            let made = cache.link(&branch, &commit, "unet/x", &digest).unwrap();
            cache.write_ref(&branch, &commit).unwrap();
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
