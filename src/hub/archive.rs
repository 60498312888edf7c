//! Archives of weights (`.tar.gz`), unpacked safely into a folder.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};
use ureq::http::Uri;

use super::{Hub, Progress, download::fetch_url};
use crate::{
    error::{Error, Result},
    io::{AtomicFile, Existing},
};

/// Most files of an archive: all are open until the last is complete.
const MAX_FILES: usize = 500;
/// Most bytes of a name or other extension of a file's header.
const MAX_EXTENSION: u64 = 1 << 16;
/// How much larger than the archive its content may be: weights hardly compress.
const MAX_RATIO: u64 = 20;
/// Bytes that any archive may unpack to.
const SMALL: u64 = 64 << 20;

/// Unpacks the files of an archive into a folder and returns their paths.
///
/// All files get their names or none does, and only after the whole archive was read and its
/// check sum is right. Paths that lead out of the folder, hidden names, links, devices, a
/// name twice, existing files and archives that unpack to far more than their size are
/// errors.
pub fn unpack(archive: &Path, into: &Path) -> Result<Vec<PathBuf>> {
    check(archive)?;
    let mut folders = Vec::new();
    let unpacked = unpack_checked(archive, into, &mut folders);
    if unpacked.is_err() {
        // Only those that are still empty are removed; the first error is reported.
        folders.iter().rev().for_each(|folder| {
            let _ = fs::remove_dir(folder);
        });
    }
    unpacked
}

fn unpack_checked(archive: &Path, into: &Path, folders: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let damaged = |error: io::Error| damaged(archive, &error);
    let (mut unfinished, mut names) = (Vec::new(), BTreeSet::new());
    let mut packed = open(archive)?;
    for entry in packed.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let Some(name) = checked(archive, &entry)? else {
            continue;
        };
        if !names.insert(name.clone()) {
            let reason = format!("it contains {} twice", name.display());
            return Err(refused(archive, reason));
        }
        let file = into.join(&name);
        make_folder(into, &name, folders)?;
        check_new(&file)?;
        let mut content = AtomicFile::create(&file, Existing::Keep)?;
        io::copy(&mut entry, &mut content).map_err(|error| Error::io(&file, error))?;
        unfinished.push((file, content));
    }
    publish(unfinished)
}

/// Gives all files their names. If one cannot have it, as where names differ in case only
/// and the file system takes them for the same, the others lose theirs.
fn publish(unfinished: Vec<(PathBuf, AtomicFile)>) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for (file, content) in unfinished {
        if let Err(error) = content.finish() {
            for file in &files {
                let _ = fs::remove_file(file);
            }
            return Err(error);
        }
        files.push(file);
    }
    Ok(files)
}

type Packed = Archive<MultiGzDecoder<File>>;

fn open(archive: &Path) -> Result<Packed> {
    let file = File::open(archive).map_err(|error| Error::io(archive, error))?;
    Ok(Archive::new(MultiGzDecoder::new(file)))
}

/// Reads the whole archive, to its check sum, without keeping anything of it.
fn check(archive: &Path) -> Result<()> {
    let damaged = |error: io::Error| damaged(archive, &error);
    let size = fs::metadata(archive).map_err(damaged)?.len();
    let most = size.saturating_mul(MAX_RATIO).max(SMALL);
    let mut packed = open(archive)?;
    let (mut files, mut total) = (0, 0_u64);
    // Raw: extensions are not read into memory.
    for entry in packed.entries().map_err(damaged)?.raw(true) {
        let entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        files += usize::from(kind.is_file());
        total = total.saturating_add(entry.size());
        if !kind.is_file() && entry.size() > MAX_EXTENSION {
            return Err(refused(
                archive,
                "it has a name or an attribute of more than 64 KiB",
            ));
        }
        if total > most {
            return Err(refused(archive, "it unpacks to far more than weights do"));
        }
        if files > MAX_FILES {
            return Err(refused(archive, "it has more than 500 files"));
        }
    }
    let mut rest = packed.into_inner().take(SMALL);
    io::copy(&mut rest, &mut io::sink()).map_err(damaged)?;
    match rest.limit() {
        0 => Err(refused(archive, "it goes on behind its end")),
        _ => Ok(()),
    }
}

/// The error of an archive that cannot be read, in our words: those of the system alone say
/// more.
fn damaged(archive: &Path, error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(code) => Error::io(archive, io::Error::from_raw_os_error(code)),
        None => refused(archive, "it is damaged, or no .tar.gz archive"),
    }
}

fn refused(archive: &Path, reason: impl std::fmt::Display) -> Error {
    let reason = format!("{reason}; no file was unpacked");
    Error::io(archive, io::Error::new(io::ErrorKind::InvalidData, reason))
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
        let is_new = !into.exists();
        fs::create_dir_all(into).map_err(|error| Error::io(into, error))?;
        let files = self.fetch_and_unpack(url, &archive, into, report);
        if files.is_err() && is_new {
            // Only if it is still empty: what was downloaded so far stays there.
            let _ = fs::remove_dir(into);
        }
        files
    }

    fn fetch_and_unpack(
        &self,
        url: &str,
        archive: &Path,
        into: &Path,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>> {
        fetch_url(self, url, archive, report)?;
        report(Progress::Checking);
        let files = unpack(archive, into);
        let removed = fs::remove_file(archive);
        let files = files?; // the first error is reported
        removed.map_err(|error| Error::io(archive, error))?;
        Ok(files)
    }
}

/// The name of the file at the address of an archive.
fn archive_name(url: &str) -> Result<&str> {
    check_address(url).map_err(|reason| Error::setting(format!("{url}: {reason}")))?;
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

/// Checks that an address has a host, a port that exists, and no other characters than
/// those of addresses.
fn check_address(url: &str) -> Result<(), &'static str> {
    let printed = |char: char| char.is_ascii_graphic();
    let uri = url.parse::<Uri>().ok().filter(|_| url.chars().all(printed));
    let uri = uri.ok_or(
        "this is no address: it needs a host, and spaces and letters beyond ASCII as in %20",
    )?;
    let host = uri.authority().ok_or("it names no host")?;
    let port = host.as_str().rsplit_once(':');
    let digits = port
        .map(|(_, port)| port)
        .filter(|port| !port.contains(']'));
    match digits.is_none_or(|digits| matches!(digits.parse::<u16>(), Ok(1..))) {
        true => Ok(()),
        false => Err("its port is not from 1 to 65535"),
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

/// The path of a file that may be written, without its `.`; `None` for folders.
fn checked(archive: &Path, entry: &Entry<impl Read>) -> Result<Option<PathBuf>> {
    let name = entry.path().map_err(|error| damaged(archive, &error))?;
    let refused = |what: &str| {
        let reason = format!("it contains {}, {what}", name.display());
        Err(refused(archive, reason))
    };
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    let hidden =
        |part| matches!(part, Component::Normal(name) if name.as_encoded_bytes().starts_with(b"."));
    match entry.header().entry_type() {
        _ if !name.components().all(inside) => refused("a path that leads out of its folder"),
        _ if name.to_string_lossy().contains(char::is_control) => {
            refused("a name with a control character")
        }
        _ if name.components().any(hidden) => refused("a hidden file or folder"),
        EntryType::Regular | EntryType::Continuous => {
            let parts = name.components();
            let path: PathBuf = parts.filter(|part| *part != Component::CurDir).collect();
            match path.as_os_str().is_empty() {
                true => Err(self::refused(archive, "it contains a file without a name")),
                false => Ok(Some(path)),
            }
        }
        EntryType::Directory => Ok(None),
        _ => refused("which is neither a file nor a folder"),
    }
}

/// Creates the folders of a file below `into`, which must not be symbolic links, and adds
/// new ones to `made`.
fn make_folder(into: &Path, name: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    if !into.exists() {
        fs::create_dir_all(into).map_err(|error| Error::io(into, error))?;
        made.push(into.into());
    }
    let mut folder = into.to_path_buf();
    for part in name.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let reason = "this is a link or a file where the archive has a folder";
                return Err(Error::io(&folder, io::Error::other(reason)));
            }
            Err(_) => {
                fs::create_dir(&folder).map_err(|error| Error::io(&folder, error))?;
                made.push(folder.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
