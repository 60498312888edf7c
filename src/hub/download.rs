//! Downloads of single files: resumed, verified, and renamed when complete.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ureq::{Body, http::Response};

use super::{
    Cache, Hub, PlannedFile, RemoteFile, RetryPolicy,
    client::Failure,
    lock::{Lock, Taken},
};
use crate::{
    error::{Error, Result},
    io::is_special,
};

/// The progress of a download.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Waiting for another process that is fetching the file.
    Waiting,
    /// The file system of the cache has no locks, for the system's reason: nothing keeps
    /// other processes from fetching the same file.
    Unlocked(&'a io::Error),
    /// Number of bytes present.
    Here(u64),
    /// The attempt failed for a reason, and the next one begins after a pause.
    Again(&'a str, Duration),
    /// All bytes are present and are being verified.
    Checking,
}

impl Hub {
    /// Downloads a file into the cache, unless it is there undamaged, and returns its path.
    pub fn fetch(
        &self,
        cache: &Cache,
        wanted: &PlannedFile,
        report: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        let PlannedFile {
            repository,
            commit,
            file,
        } = wanted;
        cache.root()?;
        let content = cache.blob(repository, &file.digest);
        if wanted.is_here(cache) {
            report(Progress::Checking);
            remove_damaged(&content, file, report)?;
        }
        if !wanted.is_here(cache) {
            let lock = cache.lock_file(repository, &file.digest);
            let waiting = &mut || {
                report(Progress::Waiting);
                !wanted.is_here(cache)
            };
            let taken = Lock::take(&lock, waiting)?;
            if let Taken::Impossible(reason) = &taken {
                report(Progress::Unlocked(reason));
            }
            if !matches!(taken, Taken::GivenUp) && !wanted.is_here(cache) {
                self.download(wanted, &content, report)?;
            }
        }
        report(Progress::Here(file.size));
        cache.link(repository, commit, &file.name, &file.digest)
    }

    /// Downloads into a temporary file beside `content`, verifies it and renames it.
    fn download(
        &self,
        wanted: &PlannedFile,
        content: &Path,
        report: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let part = unfinished(content);
        let folder = content.parent().unwrap_or(content);
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let mut checked = 0;
        let PlannedFile {
            repository,
            commit,
            file,
        } = wanted;
        let open = |offset| self.open(repository, commit, &file.name, offset);
        let attempt = |report: &mut dyn FnMut(Progress)| {
            receive(&open, Some(file.size), &part, report)?;
            report(Progress::Checking);
            checked += 1;
            check(wanted, &part, checked)
        };
        let received = retry(self.retry_policy, &wanted.to_string(), attempt, report);
        if received.is_err() {
            remove_empty(&part);
        }
        received?;
        fs::rename(&part, content).map_err(|error| Error::io(content, error))
    }
}

/// Downloads a file from any host, without verification.
pub(super) fn fetch_url(
    hub: &Hub,
    url: &str,
    file: &Path,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    let part = with_ending(file, "incomplete");
    let attempt = |report: &mut dyn FnMut(Progress)| {
        receive(&|offset| hub.open_url(url, offset), None, &part, report)
    };
    let received = retry(hub.retry_policy, url, attempt, report);
    if received.is_err() {
        remove_empty(&part);
    }
    received?;
    fs::rename(&part, file).map_err(|error| Error::io(file, error))
}

/// Removes an unfinished file that holds nothing to resume from.
fn remove_empty(part: &Path) {
    if fs::symlink_metadata(part).is_ok_and(|found| found.is_file() && found.len() == 0) {
        let _ = fs::remove_file(part);
    }
}

/// Requests a file's bytes from an offset on.
type Open<'a> = &'a dyn Fn(u64) -> Result<Response<Body>, Failure>;

/// Appends the missing bytes of a file of `size` bytes, if known.
fn receive(
    open: Open,
    size: Option<u64>,
    part: &Path,
    report: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let fault = |error| Failure::Permanent(Error::io(part, error));
    let mut out = open_unfinished(part).map_err(fault)?;
    let mut here = out.metadata().map_err(fault)?.len();
    if size.is_some_and(|size| here > size) {
        out.set_len(0).map_err(fault)?;
        here = 0;
    }
    if size == Some(here) && here > 0 {
        return Ok(());
    }
    let answer = open(here)?;
    if !continues(&answer, here) {
        out.set_len(0).map_err(fault)?;
        here = 0;
    }
    if answer.status() == 416 {
        let reason = "the server has no bytes after those already here: starting over";
        return Err(Failure::Transient(reason.into(), None));
    }
    let size = size.or_else(|| announced(&answer, here));
    here = append(answer, &mut out, (here, size), part, report)?;
    match size {
        Some(size) if here < size => {
            let reason = format!("the connection ended at byte {here} of {size}");
            Err(Failure::Transient(reason, None))
        }
        _ => Ok(()),
    }
}

/// Opens a file to append to. Nothing is written through a link to another file, or into a
/// pipe that nobody may read: a folder of downloads may be shared.
fn open_unfinished(part: &Path) -> io::Result<File> {
    match fs::symlink_metadata(part) {
        Ok(found) if found.is_symlink() && !is_special(part) => Err(io::Error::other(
            "this is a link where a download belongs: remove it",
        )),
        Ok(found) if !found.is_symlink() && !found.is_file() => Err(io::Error::other(
            "this is no file where a download belongs: remove it",
        )),
        _ => File::options().create(true).append(true).open(part),
    }
}

/// Whether a response continues at the end of the file: not if the server ignores the
/// range, compresses the content, or has no bytes there.
fn continues(answer: &Response<Body>, here: u64) -> bool {
    let range = header(answer, "content-range").unwrap_or_default();
    let continues = range.starts_with(&format!("bytes {here}-"));
    here == 0 || (answer.status() == 206 && continues && !is_compressed(answer))
}

/// The size of the whole file, according to a response that begins at `here`.
fn announced(answer: &Response<Body>, here: u64) -> Option<u64> {
    let rest: u64 = header(answer, "content-length")?.parse().ok()?;
    here.checked_add(rest).filter(|_| !is_compressed(answer))
}

fn is_compressed(answer: &Response<Body>) -> bool {
    header(answer, "content-encoding").is_some_and(|coding| coding != "identity")
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Appends a response's bytes, at most one more than the file should have, and returns
/// the size of the file.
fn append(
    answer: Response<Body>,
    out: &mut File,
    (mut here, size): (u64, Option<u64>),
    part: &Path,
    report: &mut dyn FnMut(Progress),
) -> Result<u64, Failure> {
    let max = size.map_or(u64::MAX, |size| (size - here).saturating_add(1));
    let mut bytes = answer.into_body().into_reader().take(max);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(here),
            Ok(count) => {
                let written = out.write_all(&buffer[..count]);
                written.map_err(|error| Failure::Permanent(Error::io(part, error)))?;
                here += count as u64;
                report(Progress::Here(here));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let reason = format!("the connection broke at byte {here} ({error})");
                return Err(Failure::Transient(reason, None));
            }
        }
    }
}

/// Removes the content of a file whose hash is another, although its length is right.
fn remove_damaged(
    content: &Path,
    file: &RemoteFile,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    let fault = |error| Error::io(content, error);
    let bytes = File::open(content).map_err(fault)?;
    if file.digest.matches(bytes, file.size).map_err(fault)? {
        return Ok(());
    }
    report(Progress::Again(
        "the file in the cache is damaged",
        Duration::ZERO,
    ));
    fs::remove_file(content).map_err(fault)
}

/// Number of downloads with a wrong hash before giving up.
const CHECKS: u32 = 2;

/// Verifies a received file; a wrong one is removed.
fn check(wanted: &PlannedFile, part: &Path, checked: u32) -> Result<(), Failure> {
    let RemoteFile { size, digest, .. } = &wanted.file;
    let fault = |error| Failure::Permanent(Error::io(part, error));
    let content = File::open(part).map_err(fault)?;
    let length = content.metadata().map_err(fault)?.len();
    if length == *size && digest.matches(content, length).map_err(fault)? {
        return Ok(());
    }
    fs::remove_file(part).map_err(fault)?;
    let reason = match length == *size {
        true => "the received file is wrong: its hash differs".to_owned(),
        false => format!("the received file is wrong: it is longer than {size} bytes"),
    };
    if checked < CHECKS {
        return Err(Failure::Transient(reason, None)); // possibly damaged in transit
    }
    let reason = format!("{reason}, twice; it was deleted");
    Err(Error::hub(wanted, reason).into())
}

/// The temporary name of a blob, as used by all programs of the hub.
pub(super) fn unfinished(content: &Path) -> PathBuf {
    with_ending(content, "incomplete")
}

/// The path with another ending appended.
pub(super) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

/// Repeats attempts until one succeeds or fails permanently, or too many in a row made no
/// progress.
pub(super) fn retry<T>(
    retry_policy: RetryPolicy,
    what: &str,
    mut attempt: impl FnMut(&mut dyn FnMut(Progress)) -> Result<T, Failure>,
    report: &mut dyn FnMut(Progress),
) -> Result<T> {
    let (mut failed, mut furthest) = (0, 0);
    loop {
        let before = furthest;
        let mut seen = |progress: Progress| {
            if let Progress::Here(bytes) = progress {
                furthest = furthest.max(bytes);
            }
            report(progress);
        };
        let (reason, asked) = match attempt(&mut seen) {
            Ok(done) => return Ok(done),
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Unreachable(error)) if furthest == 0 => return Err(error),
            Err(Failure::Unreachable(error)) => (error.to_string(), None),
            Err(Failure::Transient(reason, asked)) => (reason, asked),
        };
        failed = if furthest > before { 1 } else { failed + 1 };
        let doubled = 2_u32.saturating_pow(failed - 1);
        let default = retry_policy.pause.saturating_mul(doubled);
        let too_long = asked.is_some_and(|asked| asked > retry_policy.longest);
        if failed >= retry_policy.attempts || too_long {
            let reason = match furthest {
                0 => reason,
                _ => format!("{reason}; a later download resumes from here"),
            };
            return Err(Error::hub(what, reason));
        }
        let pause = asked.unwrap_or(default).min(retry_policy.longest);
        report(Progress::Again(&reason, pause));
        thread::sleep(pause);
    }
}

/// Returns an error if the disk of a folder has less than `needed` bytes free.
pub(super) fn check_room(folder: &Path, needed: u64) -> Result<()> {
    let existing = folder.ancestors().find(|folder| folder.exists());
    let folder = existing.unwrap_or(Path::new("."));
    let free = fs4::available_space(folder).map_err(|error| Error::io(folder, error))?;
    check_free(folder, free, needed)
}

/// Bytes that must remain free.
const SPARE: u64 = 64 << 20;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

fn check_free(folder: &Path, free: u64, needed: u64) -> Result<()> {
    if needed == 0 || free >= needed.saturating_add(SPARE) {
        return Ok(());
    }
    let reason = format!(
        "{:.1} GiB are to be downloaded, but its disk has only {:.1} GiB free: free some space, \
         or set HF_HUB_CACHE to a folder on another disk",
        needed as f64 / GIB,
        free as f64 / GIB
    );
    let full = io::Error::new(io::ErrorKind::StorageFull, reason);
    Err(Error::io(folder, full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_download_is_not_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, part) = (folder.path().join("victim"), folder.path().join("part"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &part).unwrap();
        let error = open_unfinished(&part).unwrap_err().to_string();
        assert!(error.contains("a link"), "{error}");
        assert!(open_unfinished(folder.path()).is_err());
        let mut new = open_unfinished(&folder.path().join("new")).unwrap();
        new.write_all(b"ab").unwrap();
        remove_empty(&folder.path().join("new"));
        assert_eq!(fs::read(folder.path().join("new")).unwrap(), b"ab");
        assert_eq!(fs::read(victim).unwrap(), b"precious");
    }

    #[test]
    fn a_full_disk_is_an_error_before_the_download() {
        let folder = Path::new("/cache");
        assert!(check_free(folder, 10 << 30, 5 << 30).is_ok());
        assert!(check_free(folder, 0, 0).is_ok());
        assert!(check_free(folder, 10 << 30, u64::MAX).is_err());
        let error = check_free(folder, 5 << 30, 5 << 30)
            .unwrap_err()
            .to_string();
        for word in ["/cache", "5.0 GiB", "HF_HUB_CACHE"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
