//! One file from the hub into the cache: resumed where it was cut, checked, and
//! named only when it is whole.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ureq::{Body, http::Response};

use super::{Cache, Hub, Patience, Wanted, lock::Lock, remote::Failure};
use crate::error::{Error, Result};

/// What happens while a file is fetched.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Another program fetches it.
    Waiting,
    /// So many bytes are here.
    Here(u64),
    /// The attempt failed, and the next one begins after a pause.
    Again(&'a str, Duration),
    /// All bytes are here and are compared with what the hub says of them.
    Checking,
}

impl Hub {
    /// Brings a file into the cache. `tell` learns how it goes.
    pub fn fetch(
        &self,
        cache: &Cache,
        wanted: &Wanted,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        let Wanted {
            repository,
            commit,
            file,
        } = wanted;
        let content = cache.content(repository, &file.digest);
        if !wanted.is_here(cache) {
            let lock = cache.lock_file(repository, &file.digest);
            let waiting = &mut || {
                tell(Progress::Waiting);
                !wanted.is_here(cache)
            };
            if let Some(_held) = Lock::take(&lock, waiting)?
                && !wanted.is_here(cache)
            {
                self.bring(wanted, &content, tell)?;
            }
        }
        tell(Progress::Here(file.size));
        cache.point(repository, commit, &file.name, &file.digest)
    }

    /// Fetches a content beside its place, checks it and puts it there.
    fn bring(&self, wanted: &Wanted, content: &Path, tell: &mut dyn FnMut(Progress)) -> Result<()> {
        let part = unfinished(content);
        let folder = content.parent().unwrap_or(content);
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let mut checked = 0;
        let attempt = |tell: &mut dyn FnMut(Progress)| {
            self.receive(wanted, &part, tell)?;
            tell(Progress::Checking);
            checked += 1;
            check(wanted, &part, checked)
        };
        persevere(self.patience, &wanted.to_string(), attempt, tell)?;
        fs::rename(&part, content).map_err(|error| Error::io(content, error))
    }

    fn receive(
        &self,
        wanted: &Wanted,
        part: &Path,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(), Failure> {
        let Wanted {
            repository,
            commit,
            file,
        } = wanted;
        let open = |offset| self.open(repository, commit, &file.name, offset);
        receive(&open, Some(file.size), part, tell)
    }
}

/// Fetches a file from anywhere, without knowing what it must be.
pub(super) fn fetch_url(
    hub: &Hub,
    url: &str,
    file: &Path,
    tell: &mut dyn FnMut(Progress),
) -> Result<()> {
    let part = with_ending(file, "incomplete");
    let attempt = |tell: &mut dyn FnMut(Progress)| {
        receive(&|offset| hub.open_url(url, offset), None, &part, tell)
    };
    persevere(hub.patience, url, attempt, tell)?;
    fs::rename(&part, file).map_err(|error| Error::io(file, error))
}

/// An answer with a file's bytes from an offset on.
type Open<'a> = &'a dyn Fn(u64) -> Result<Response<Body>, Failure>;

/// Appends what is missing of a file, of so many bytes where that is known.
fn receive(
    open: Open,
    size: Option<u64>,
    part: &Path,
    tell: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let fault = |error| Failure::Final(Error::io(part, error));
    let out = File::options().create(true).append(true).open(part);
    let mut out = out.map_err(fault)?;
    let mut here = out.metadata().map_err(fault)?.len();
    if size.is_some_and(|size| here > size) {
        out.set_len(0).map_err(fault)?;
        here = 0;
    }
    if size == Some(here) && here > 0 {
        return Ok(());
    }
    let answer = open(here)?;
    if !goes_on(&answer, here) {
        out.set_len(0).map_err(fault)?;
        here = 0;
    }
    if answer.status() == 416 {
        let reason = "nothing follows what is here, which cannot be all: it begins anew";
        return Err(Failure::Passing(reason.into(), None));
    }
    let size = size.or_else(|| announced(&answer, here));
    here = append(answer, &mut out, (here, size), part, tell)?;
    match size {
        Some(size) if here < size => {
            let reason = format!("the connection ended at byte {here} of {size}");
            Err(Failure::Passing(reason, None))
        }
        _ => Ok(()),
    }
}

/// Whether an answer goes on where the file ends: not where a server ignores
/// the wish, packs what it sends, or has nothing from there on.
fn goes_on(answer: &Response<Body>, here: u64) -> bool {
    let range = header(answer, "content-range").unwrap_or_default();
    let begins = range
        .strip_prefix("bytes ")
        .and_then(|range| range.split('-').next());
    let packed = header(answer, "content-encoding").is_some_and(|coding| coding != "identity");
    here == 0 || (answer.status() == 206 && begins == Some(&here.to_string()) && !packed)
}

/// How long the whole file is, as an answer tells it that begins at `here`.
fn announced(answer: &Response<Body>, here: u64) -> Option<u64> {
    let rest: u64 = header(answer, "content-length")?.parse().ok()?;
    let packed = header(answer, "content-encoding").is_some_and(|coding| coding != "identity");
    (!packed).then_some(here + rest)
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Appends an answer's bytes, one more than there should be at most; gives how
/// long the file is then.
fn append(
    answer: Response<Body>,
    out: &mut File,
    (mut here, size): (u64, Option<u64>),
    part: &Path,
    tell: &mut dyn FnMut(Progress),
) -> Result<u64, Failure> {
    let most = size.map_or(u64::MAX, |size| size + 1 - here);
    let mut bytes = answer.into_body().into_reader().take(most);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(here),
            Ok(count) => {
                let written = out.write_all(&buffer[..count]);
                written.map_err(|error| Failure::Final(Error::io(part, error)))?;
                here += count as u64;
                tell(Progress::Here(here));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let reason = format!("the connection broke at byte {here} ({error})");
                return Err(Failure::Passing(reason, None));
            }
        }
    }
}

/// How often a content may be wrong before the hub itself must be.
const CHECKS: u32 = 2;

/// Compares what was received with what the hub says of it; what is wrong goes.
fn check(wanted: &Wanted, part: &Path, checked: u32) -> Result<(), Failure> {
    let fault = |error| Failure::Final(Error::io(part, error));
    if wanted.file.digest.fits(part, &mut |_| {}).map_err(fault)? {
        return Ok(());
    }
    let length = fs::metadata(part).map_err(fault)?.len();
    fs::remove_file(part).map_err(fault)?;
    let reason = match length == wanted.file.size {
        true => "what came is not what the hub says it is: its hash differs".to_owned(),
        false => format!(
            "what came is longer than the {} bytes it should be",
            wanted.file.size
        ),
    };
    Err(match checked < CHECKS {
        true => Failure::Passing(reason, None), // damaged on the way?
        false => Failure::Final(Error::Hub {
            what: wanted.to_string(),
            reason: format!("{reason}, twice; nothing of it is kept"),
        }),
    })
}

/// The name of a content that is not whole, which all programs of the hub use.
pub(super) fn unfinished(content: &Path) -> PathBuf {
    with_ending(content, "incomplete")
}

/// The name of a file that is not whole, beside it.
pub(super) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

/// Makes attempts until one succeeds, fails for good, or too many bring no
/// new bytes.
pub(super) fn persevere<T>(
    patience: Patience,
    what: &str,
    mut attempt: impl FnMut(&mut dyn FnMut(Progress)) -> Result<T, Failure>,
    tell: &mut dyn FnMut(Progress),
) -> Result<T> {
    let (mut failed, mut furthest) = (0, 0);
    loop {
        let before = furthest;
        let mut seen = |progress: Progress| {
            if let Progress::Here(bytes) = progress {
                furthest = furthest.max(bytes);
            }
            tell(progress);
        };
        let (reason, asked) = match attempt(&mut seen) {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Unreachable(error)) if furthest == 0 => return Err(error),
            Err(Failure::Unreachable(error)) => (error.to_string(), None),
            Err(Failure::Passing(reason, asked)) => (reason, asked),
        };
        failed = if furthest > before { 1 } else { failed + 1 };
        let doubled = 2_u32.saturating_pow(failed - 1);
        let usual = patience.pause.saturating_mul(doubled);
        let pause = asked.unwrap_or(usual);
        if failed >= patience.attempts || asked.is_some_and(|asked| asked > patience.longest) {
            let what = what.to_owned();
            let reason = format!("{reason}; the same command goes on from here later");
            return Err(Error::Hub { what, reason });
        }
        let pause = pause.min(patience.longest);
        tell(Progress::Again(&reason, pause));
        thread::sleep(pause);
    }
}

/// Fails where a folder's disk has less room than `needed` bytes.
pub(super) fn check_room(folder: &Path, needed: u64) -> Result<()> {
    let there = folder.ancestors().find(|folder| folder.exists());
    let folder = there.unwrap_or(Path::new("."));
    let free = fs4::available_space(folder).map_err(|error| Error::io(folder, error))?;
    check_free(folder, free, needed)
}

/// Some room is left for everything else.
const SPARE: u64 = 64 << 20;

fn check_free(folder: &Path, free: u64, needed: u64) -> Result<()> {
    if needed == 0 || free >= needed + SPARE {
        return Ok(());
    }
    let reason = format!(
        "{:.1} GB are to come, and its disk has only {:.1} GB left: make room, or set \
         HF_HUB_CACHE to a folder on another disk",
        needed as f64 / 1e9,
        free as f64 / 1e9
    );
    let full = io::Error::new(io::ErrorKind::StorageFull, reason);
    Err(Error::io(folder, full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_told_before() {
        let folder = Path::new("/cache");
        assert!(check_free(folder, 10 << 30, 5 << 30).is_ok());
        assert!(check_free(folder, 0, 0).is_ok());
        let error = check_free(folder, 5 << 30, 5 << 30)
            .unwrap_err()
            .to_string();
        for word in ["/cache", "5.4 GB", "HF_HUB_CACHE"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
