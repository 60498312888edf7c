//! The local cache, in the layout shared by all programs that use the hub: blobs named
//! by their digests, and snapshots of repositories that link to them
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

use std::{
    fs,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::{Digest, Repository, environment};
use crate::{
    error::{Error, Result},
    io::{AtomicFile, Existing, read_file},
};

/// A local cache of repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// `None` where nothing names a folder; then it holds no files.
    root: Option<PathBuf>,
}

impl Cache {
    /// The cache in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = Some(root.into());
        Self { root }
    }

    /// The cache named by `HF_HUB_CACHE` (formerly `HUGGINGFACE_HUB_CACHE`), else by
    /// `HF_HOME`, else by `XDG_CACHE_HOME`, else the default one in the home folder.
    pub fn from_env() -> Self {
        let root = environment::cache();
        Self { root }
    }

    /// The folder of the cache; an error if there is no home folder and no variable names
    /// another.
    pub fn root(&self) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| {
            Error::setting(
                "there is no home folder to keep the hub's files in: set HF_HOME or \
                 HF_HUB_CACHE to a folder",
            )
        })
    }

    /// The file of a repository, if it is in the cache.
    pub fn file(&self, repository: &Repository, name: &str) -> Option<PathBuf> {
        let file = self.snapshot(repository)?.join(name);
        file.exists().then_some(file)
    }

    /// The folder of a repository's files, if its commit is known.
    pub fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        self.root.as_ref()?;
        let commit = match repository.is_pinned() {
            true => repository.revision.clone(),
            false => self.commit(repository)?,
        };
        Some(self.layout(repository).pointer_path(&commit))
    }

    /// The commit of a branch or tag when it was last fetched.
    fn commit(&self, repository: &Repository) -> Option<String> {
        let refs = self.folder(repository).join("refs");
        let file = refs.join(&repository.revision);
        if !file.is_file() {
            return None; // a pipe would be waited for
        }
        let commit = read_file(&file).ok()?;
        let commit = String::from_utf8(commit).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    fn folder(&self, repository: &Repository) -> PathBuf {
        self.known_root().join(repo(repository).folder_name())
    }

    fn layout(&self, repository: &Repository) -> CacheRepo {
        hf_hub::Cache::new(self.known_root()).repo(repo(repository))
    }

    /// The folder where [`root`](Self::root) is no error.
    fn known_root(&self) -> PathBuf {
        self.root.clone().unwrap_or_default()
    }

    /// The hashes that the content of a cached file may have: the one it is named by, or,
    /// for a copy, those of the blobs of its length.
    pub fn digests(&self, repository: &Repository, file: &Path) -> io::Result<Vec<Digest>> {
        let named = |path: &Path| Digest::parse(path.file_name()?.to_str()?);
        if let Some(digest) = named(&fs::canonicalize(file)?) {
            return Ok(vec![digest]);
        }
        let length = fs::metadata(file)?.len();
        // A cache without blobs knows no hashes.
        let blobs = fs::read_dir(self.folder(repository).join("blobs"));
        let blobs = blobs.into_iter().flatten().flatten();
        let alike = blobs.filter(|blob| blob.metadata().is_ok_and(|found| found.len() == length));
        Ok(alike.filter_map(|blob| named(&blob.path())).collect())
    }

    /// The path of a blob.
    pub(super) fn blob(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.folder(repository).join("blobs").join(digest.name())
    }

    /// The lock file that keeps other processes from fetching the same blob.
    pub(super) fn lock_file(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        let name = repo(repository).folder_name();
        let folder = self.known_root().join(".locks").join(name);
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

fn same_content(file: &Path, content: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(file).is_some_and(|file| real(content) == Some(file))
}

/// Gives a file the content of `content`: by the symbolic link `target`, else, where the
/// file system or a privilege is lacking, by a hard link, else by a copy.
fn link(target: &Path, content: &Path, file: &Path) -> io::Result<()> {
    symbolic_link(target, file)
        .or_else(|_| fs::hard_link(content, file))
        .or_else(|_| copy(content, file))
}

#[cfg(unix)]
fn symbolic_link(target: &Path, file: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, file)
}

#[cfg(windows)]
fn symbolic_link(target: &Path, file: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, file)
}

#[cfg(not(any(unix, windows)))]
fn symbolic_link(_target: &Path, _file: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Copies a file; an interrupted copy leaves none.
fn copy(content: &Path, file: &Path) -> io::Result<()> {
    let mut copy = AtomicFile::create(file, Existing::Replace).map_err(io::Error::other)?;
    io::copy(&mut File::open(content)?, &mut copy)?;
    copy.finish().map_err(io::Error::other)
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

    #[test]
    fn a_file_without_links_is_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let [content, file] = ["blob", "file"].map(|name| folder.path().join(name));
        fs::write(&content, "weights").unwrap();
        copy(&content, &file).unwrap();
        fs::write(&content, "changed").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "weights");
        // Only blobs of its length can have its hash.
        let cache = Cache::new(folder.path());
        let repository = Repository::new("a/b");
        assert!(cache.digests(&repository, &file).unwrap().is_empty());
        let digest = |letter: &str| Digest::parse(&letter.repeat(64)).unwrap();
        for (letter, bytes) in [("a", "weights"), ("b", "others")] {
            let blob = cache.blob(&repository, &digest(letter));
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::write(blob, bytes).unwrap();
        }
        assert_eq!(cache.digests(&repository, &file).unwrap(), [digest("a")]);
        // A symbolic link that cannot be made leaves a hard link.
        let no_link = Path::new("nul\0");
        fs::remove_file(&file).unwrap();
        link(no_link, &content, &file).unwrap();
        assert!(!fs::symlink_metadata(&file).unwrap().is_symlink());
        fs::write(&content, "again").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "again");
    }

    #[test]
    fn without_a_home_there_is_no_cache_and_a_word_of_what_to_set() {
        let cache = Cache { root: None };
        assert_eq!(cache.file(&Repository::new("a/b"), "x"), None);
        assert_eq!(cache.snapshot(&Repository::new("a/b")), None);
        let error = cache.root().unwrap_err().to_string();
        assert!(error.contains("HF_HUB_CACHE"), "{error}");
    }
}
