//! Where the files of a batch lie: on a disk, or wherever else a program keeps them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::Record;
use crate::{
    error::{Error, Result},
    io::{Existing, read_file, write_file},
};

/// Files by name: paths of a disk, or URLs.
pub trait Storage: Sync {
    /// How files are written there.
    fn kind(&self) -> Kind;

    /// The content of a file, at most 1 GiB.
    fn read(&self, file: &Path) -> Result<Vec<u8>>;

    /// What has this name; `None` if nothing has it.
    fn stat(&self, file: &Path) -> Result<Option<Stat>>;

    /// The files in a folder, in the order of their names, not those in its folders; none if
    /// the folder does not exist.
    fn files(&self, folder: &Path) -> Result<Vec<PathBuf>>;

    /// Whether this is a folder of files rather than a file.
    fn is_folder(&self, path: &Path) -> Result<bool>;

    /// Creates a folder and those above it, or fails if nothing can be written into it.
    fn create_folder(&self, folder: &Path) -> Result<()>;

    /// Writes a file, whole or not at all. Objects carry a record; a disk has ledgers for them.
    fn write(
        &self,
        file: &Path,
        bytes: &[u8],
        record: Option<&Record>,
        existing: Existing,
    ) -> Result<()>;

    /// Removes a file, if there is one.
    fn remove(&self, file: &Path) -> Result<()>;
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As files, which can be appended to and locked.
    Files,
    /// As objects, each at once, with notes beside its content.
    Objects,
}

/// What has a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Stat {
    /// A file, and the record that it carries.
    File {
        /// Its size.
        bytes: u64,
        /// What an object states of its content.
        record: Option<Record>,
    },
    /// A folder.
    Folder,
    /// A device, or a link that leads nowhere.
    Other,
}

/// The files of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Storage for Disk {
    fn kind(&self) -> Kind {
        Kind::Files
    }

    fn read(&self, file: &Path) -> Result<Vec<u8>> {
        read_file(file).map_err(|error| Error::io(file, error))
    }

    fn stat(&self, file: &Path) -> Result<Option<Stat>> {
        if fs::symlink_metadata(file).is_err() {
            return Ok(None);
        }
        Ok(Some(match fs::metadata(file) {
            Ok(found) if found.is_dir() => Stat::Folder,
            Ok(found) if found.is_file() => Stat::File {
                bytes: found.len(),
                record: None,
            },
            _ => Stat::Other,
        }))
    }

    fn files(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let fault = |error| Error::io(folder, error);
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fault)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(fault)?.path();
            if file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }

    fn is_folder(&self, path: &Path) -> Result<bool> {
        Ok(path.is_dir())
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))
    }

    fn write(
        &self,
        file: &Path,
        bytes: &[u8],
        _: Option<&Record>,
        existing: Existing,
    ) -> Result<()> {
        write_file(file, bytes, existing)
    }

    fn remove(&self, file: &Path) -> Result<()> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(file, error)),
            _ => Ok(()),
        }
    }
}

/// A new file of a disk to append to.
pub(super) fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create_new(true).open(path);
    file.map_err(|error| Error::io(path, error))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use serde_json::json;

    use super::*;
    use crate::batch::{Failures, Job, Ledger, Part, Records, jobs_of_folder};

    /// Objects in memory.
    #[derive(Default)]
    struct Objects(Mutex<BTreeMap<PathBuf, Vec<u8>>>);

    impl Storage for Objects {
        fn kind(&self) -> Kind {
            Kind::Objects
        }

        fn read(&self, file: &Path) -> Result<Vec<u8>> {
            let found = self.0.lock().unwrap().get(file).cloned();
            found.ok_or_else(|| Error::io(file, io::ErrorKind::NotFound.into()))
        }

        fn stat(&self, file: &Path) -> Result<Option<Stat>> {
            let found = self.0.lock().unwrap().get(file).map(Vec::len);
            Ok(found.map(|bytes| Stat::File {
                bytes: bytes as u64,
                record: None,
            }))
        }

        fn files(&self, folder: &Path) -> Result<Vec<PathBuf>> {
            let objects = self.0.lock().unwrap();
            let own = objects.keys().filter(|key| key.parent() == Some(folder));
            Ok(own.cloned().collect())
        }

        fn is_folder(&self, path: &Path) -> Result<bool> {
            Ok(!self.files(path)?.is_empty())
        }

        fn create_folder(&self, _: &Path) -> Result<()> {
            Ok(())
        }

        fn write(
            &self,
            file: &Path,
            bytes: &[u8],
            _: Option<&Record>,
            existing: Existing,
        ) -> Result<()> {
            let mut objects = self.0.lock().unwrap();
            if existing == Existing::Keep && objects.contains_key(file) {
                return Err(Error::io(file, io::ErrorKind::AlreadyExists.into()));
            }
            objects.insert(file.into(), bytes.into());
            Ok(())
        }

        fn remove(&self, file: &Path) -> Result<()> {
            self.0.lock().unwrap().remove(file);
            Ok(())
        }
    }

    /// A store that lives as long as the process, as those of a program do.
    fn objects() -> &'static Objects {
        Box::leak(Box::default())
    }

    #[test]
    fn lists_are_written_as_a_whole_where_nothing_can_be_appended() {
        let (storage, out) = (objects(), Path::new("s3://b/out"));
        let begin = || Failures::begin(storage, out, Part::Whole, Path::new("jobs")).unwrap();
        let job = Job::from_iter([("image".to_owned(), json!("a.png"))]);
        let mut failures = begin();
        failures.add(7, &job, "late").unwrap();
        failures.add(2, &job, "early").unwrap();
        assert!(Failures::all(storage, out).unwrap().is_empty());
        failures.finish().unwrap();
        let lists = Failures::all(storage, out).unwrap();
        let text = String::from_utf8_lossy(&lists[0]);
        assert_eq!((lists.len(), text.lines().count()), (1, 2));
        assert!(text.find("early") < text.find("late"), "{text}");
        begin().finish().unwrap();
        assert!(Failures::all(storage, out).unwrap().is_empty());
    }

    #[test]
    fn objects_have_no_ledgers_and_workers_are_told_apart() {
        let (storage, out) = (objects(), Path::new("s3://b/out"));
        assert!(Ledger::open(storage, out, Part::Whole).unwrap().is_none());
        let worker = || Ledger::of_worker(storage, out).unwrap();
        for number in 1..4 {
            let (ledger, part) = worker();
            assert_eq!((ledger.is_none(), part), (true, Part::Worker(number)));
        }
        assert_eq!(Records::read(storage, out).unwrap().mean(), None);
    }

    #[test]
    fn captions_and_masks_are_found_among_objects() {
        let storage = objects();
        for (name, content) in [
            ("s3://b/in/a.png", "x"),
            ("s3://b/in/a.txt", "a bird\r\n"),
            ("s3://b/in/a.mask.png", "x"),
            ("s3://b/in/deep/b.png", "x"),
        ] {
            let (file, existing) = (Path::new(name), Existing::Keep);
            storage
                .write(file, content.as_bytes(), None, existing)
                .unwrap();
        }
        let jobs = jobs_of_folder(storage, Path::new("s3://b/in/")).unwrap();
        let job = jobs[0].content.clone().map(serde_json::Value::Object);
        let expected = json!({ "image": "s3://b/in/a.png", "mask": "s3://b/in/a.mask.png",
                               "src_prompt": "a bird" });
        assert_eq!((jobs.len(), job), (1, Ok(expected)));
    }
}
