//! Archives of weights (`.tar.gz`), unpacked safely into a folder.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::{
    Hub, Progress,
    download::{fetch_url, with_ending},
};
use crate::error::{Error, Result};

/// Unpacks the files of an archive into a folder and returns their paths.
///
/// Paths that lead out of the folder, links, devices and existing files are errors.
pub fn unpack(archive: &Path, into: &Path) -> Result<Vec<PathBuf>> {
    walk(archive, &mut |_, _| Ok(()))?; // checks all names before anything is unpacked
    let mut files = Vec::new();
    walk(archive, &mut |name, bytes| {
        let file = into.join(name);
        write(bytes, &file)?;
        files.push(file);
        Ok(())
    })?;
    Ok(files)
}

type Visit<'a> = &'a mut dyn FnMut(&Path, &mut dyn io::Read) -> Result<()>;

fn walk(archive: &Path, visit: Visit) -> Result<()> {
    let damaged = |error: io::Error| Error::io(archive, error);
    let mut packed = Archive::new(MultiGzDecoder::new(File::open(archive).map_err(damaged)?));
    for entry in packed.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if let Some(name) = checked(archive, &entry)? {
            visit(&name, &mut entry)?;
        }
    }
    Ok(())
}

impl Hub {
    /// Downloads an archive (`.tar.gz` or `.tgz`) from any host, unpacks it into a folder
    /// and deletes it.
    pub fn fetch_archive(
        &self,
        url: &str,
        into: &Path,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>> {
        let archive = into.join(archive_name(url)?);
        if self.is_offline() {
            return Err(Error::hub(url, "HF_HUB_OFFLINE forbids downloads"));
        }
        check_new(&archive)?;
        fs::create_dir_all(into).map_err(|error| Error::io(into, error))?;
        fetch_url(self, url, &archive, report)?;
        report(Progress::Checking);
        let files = unpack(&archive, into)?;
        fs::remove_file(&archive).map_err(|error| Error::io(&archive, error))?;
        Ok(files)
    }
}

fn archive_name(url: &str) -> Result<&str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let stem = name.strip_suffix(".tar.gz").or(name.strip_suffix(".tgz"));
    match stem.is_some_and(|stem| !stem.is_empty()) {
        true => Ok(name),
        false => Err(Error::setting(format!(
            "{url}: only archives can be downloaded from a URL: it does not end in .tar.gz or .tgz"
        ))),
    }
}

/// Returns an error if the file exists.
fn check_new(file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let reason = "it exists already: move it, or choose another folder";
    let taken = io::Error::new(io::ErrorKind::AlreadyExists, reason);
    Err(Error::io(file, taken))
}

/// The path of a file that may be written; `None` for folders.
fn checked(archive: &Path, entry: &Entry<impl io::Read>) -> Result<Option<PathBuf>> {
    let name = entry.path().map_err(|error| Error::io(archive, error))?;
    let refused = |what: &str| {
        let reason = format!(
            "it contains {}, {what}; no file was unpacked",
            name.display()
        );
        let invalid = io::Error::new(io::ErrorKind::InvalidData, reason);
        Err(Error::io(archive, invalid))
    };
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    match entry.header().entry_type() {
        _ if !name.components().all(inside) => refused("a path that leads out of its folder"),
        EntryType::Regular | EntryType::Continuous => Ok(Some(name.into_owned())),
        EntryType::Directory => Ok(None),
        _ => refused("which is neither a file nor a folder"),
    }
}

/// Writes a file atomically.
fn write(bytes: &mut dyn io::Read, file: &Path) -> Result<()> {
    let fault = |error| Error::io(file, error);
    check_new(file)?;
    fs::create_dir_all(file.parent().unwrap_or(file)).map_err(fault)?;
    let part = with_ending(file, "part");
    let written = File::create(&part).and_then(|mut out| io::copy(bytes, &mut out));
    if let Err(error) = written {
        let _ = fs::remove_file(&part); // only the first error is reported
        return Err(fault(error));
    }
    fs::rename(&part, file).map_err(fault)
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};
    use tar::{Builder, Header};

    use super::*;

    /// An archive of one entry whose header is as `set` makes it.
    fn archive(folder: &Path, name: &str, kind: EntryType) -> PathBuf {
        let file = folder.join("x.tar.gz");
        let mut builder = Builder::new(GzEncoder::new(
            File::create(&file).unwrap(),
            Compression::fast(),
        ));
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(if kind == EntryType::Regular { 3 } else { 0 });
        header.set_mode(0o644);
        if kind == EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        let content: &[u8] = if kind == EntryType::Regular {
            b"abc"
        } else {
            b""
        };
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap().finish().unwrap();
        file
    }

    #[test]
    fn files_are_unpacked_below_the_folder_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = archive(folder.path(), "./a/w.pt", EntryType::Regular);
        let into = folder.path().join("out");
        let files = unpack(&file, &into).unwrap();
        assert_eq!(files, [into.join("./a/w.pt")]);
        assert_eq!(fs::read(&files[0]).unwrap(), b"abc");
        let error = unpack(&file, &into).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
    }

    #[test]
    fn paths_that_lead_out_are_errors_and_nothing_is_written() {
        for (name, kind) in [
            ("../evil", EntryType::Regular),
            ("/tmp/evil", EntryType::Regular),
            ("a/../../evil", EntryType::Regular),
            ("link", EntryType::Symlink),
            ("hard", EntryType::Link),
            ("device", EntryType::Char),
            ("pipe", EntryType::Fifo),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = archive(folder.path(), name, kind);
            let into = folder.path().join("out");
            let error = unpack(&file, &into).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("x.tar.gz"),
                "{name}: {error}"
            );
            assert!(!into.exists() && !folder.path().join("evil").exists());
        }
    }

    #[test]
    fn only_archives_are_fetched_from_an_address() {
        let name = |url| archive_name(url).ok();
        assert_eq!(name("https://x.y/a/w.tar.gz?z=1"), Some("w.tar.gz"));
        assert_eq!(name("https://x.y/w.tgz"), Some("w.tgz"));
        for url in [
            "https://x.y/",
            "https://x.y/w.pt",
            "https://x.y/.tar.gz",
            "https://x.y/w.tar.gz/",
        ] {
            assert_eq!(name(url), None, "{url}");
        }
    }

    #[test]
    fn a_damaged_archive_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = archive(folder.path(), "w.pt", EntryType::Regular);
        let bytes = fs::read(&file).unwrap();
        for cut in [0, 5, bytes.len() / 2] {
            fs::write(&file, &bytes[..cut]).unwrap();
            let into = folder.path().join("out");
            assert!(
                unpack(&file, &into).is_err() || !into.join("w.pt").exists(),
                "{cut}"
            );
        }
    }
}
