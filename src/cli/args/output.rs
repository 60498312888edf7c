//! Output files: their names, and checks that they can be written.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{IsTerminal, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use clap::{
    Args,
    builder::{PathBufValueParser, TypedValueParser},
};
use icd::{
    Error,
    io::{Existing, check_writable, resolved},
    picture::Format,
};

use crate::cli::{picture, settings::Settings};

/// The name that stands for stdout.
const STDOUT: &str = "-";

/// What is saved with pictures, and how.
#[derive(Args)]
pub(crate) struct SaveArgs {
    /// Every intermediate value, as safetensors.
    #[arg(long, value_name = "FILE", value_parser = tensors())]
    pub(crate) dump: Option<PathBuf>,
    /// Leave the settings out of the picture.
    #[arg(long)]
    pub(crate) no_metadata: bool,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

impl SaveArgs {
    /// Fails if settings are to be in a file that cannot hold them.
    pub(crate) fn check_settings(&self, file: &Path, settings: &Settings) -> Result<()> {
        match self.no_metadata {
            true => Ok(()),
            false => picture::check_settings(file, settings),
        }
    }
}

/// Whether existing files are replaced.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WriteArgs {
    /// Overwrite existing files.
    #[arg(long)]
    force: bool,
}

impl WriteArgs {
    /// Fails on files that cannot or must not be written, before the work is
    /// done.
    pub(crate) fn check<'a>(
        self,
        files: impl IntoIterator<Item = &'a PathBuf> + Clone,
    ) -> Result<()> {
        check_distinct(files.clone())?;
        files.into_iter().try_for_each(|file| self.check_one(file))
    }

    /// What becomes of existing files.
    pub(crate) fn existing(self) -> Existing {
        match self.force {
            true => Existing::Replace,
            false => Existing::Keep,
        }
    }

    /// Fails on existing files that must not be overwritten.
    pub(crate) fn check_new(self, files: &[PathBuf]) -> Result<()> {
        files.iter().try_for_each(|file| self.check_absent(file))
    }

    fn check_absent(self, file: &Path) -> Result<()> {
        let reason = || {
            format!(
                "{}: this file exists; --force overwrites it",
                file.display()
            )
        };
        // A link that leads nowhere takes the name, too; a device is written, not replaced.
        let takes_name = |file: &Path| {
            let found = file.metadata().or_else(|_| file.symlink_metadata());
            found.is_ok_and(|found| found.is_file() || found.is_symlink())
        };
        ensure!(self.force || !takes_name(file), Error::setting(reason()));
        Ok(())
    }

    fn check_one(self, file: &Path) -> Result<()> {
        if is_stdout(file) {
            let reason = "-o - writes a picture's bytes, but stdout is a terminal: redirect it to \
                          a file or a program";
            ensure!(!stdout().is_terminal(), Error::setting(reason));
            let reason = "-o - writes a picture's bytes, but stdout is closed";
            ensure!(!is_stdout_closed(), Error::setting(reason));
            return Ok(());
        }
        let reason = || format!("{}: this is a folder; name a file in it", file.display());
        ensure!(!file.is_dir(), Error::setting(reason()));
        self.check_absent(file)?;
        Ok(check_writable(file)?)
    }
}

/// Fails if two outputs are the same file, whatever it is called.
pub(crate) fn check_distinct<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for file in files {
        let twice = || format!("{}: two outputs have this name", file.display());
        ensure!(seen.insert(resolved(file)), Error::setting(twice()));
    }
    Ok(())
}

/// Fails if a folder to write into has the name of a file to write.
pub(crate) fn check_folders<'a>(
    folders: impl IntoIterator<Item = &'a PathBuf>,
    files: impl IntoIterator<Item = &'a PathBuf> + Clone,
) -> Result<()> {
    for folder in folders {
        let path = resolved(folder);
        let is_file = |file: &PathBuf| path == resolved(file);
        let reason = || {
            let folder = folder.display();
            format!("{folder}: this is to be a folder and a file: name another one")
        };
        ensure!(
            !files.clone().into_iter().any(is_file),
            Error::setting(reason())
        );
    }
    Ok(())
}

/// Fails if something beside the result would be written over an input, or over or into the
/// model, which `--force` does not mean.
pub(crate) fn check_inputs<'a>(
    beside: impl IntoIterator<Item = &'a PathBuf>,
    inputs: impl IntoIterator<Item = &'a PathBuf> + Clone,
    model: &[PathBuf],
) -> Result<()> {
    for file in beside {
        let path = resolved(file);
        let is_input = |input: &PathBuf| path == resolved(input);
        // A path starts with itself, too.
        let is_of_model = |part: &PathBuf| path.starts_with(resolved(part));
        let reason = || {
            format!(
                "{}: this is an input or lies in the model's folder; name another file",
                file.display()
            )
        };
        ensure!(
            !inputs.clone().into_iter().any(is_input) && !model.iter().any(is_of_model),
            Error::setting(reason())
        );
    }
    Ok(())
}

/// Fails if `folder` is not a folder and cannot be created.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    match folder.exists() {
        true if folder.is_dir() => Ok(check_writable(&folder.join("new"))?),
        true => Err(Error::setting(format!("{}: this is not a folder", folder.display())).into()),
        false => Ok(check_writable(folder)?),
    }
}

/// Whether the program was started without stdout. The standard library then opens
/// `/dev/null` in its place, for reading too, which no redirection does.
#[cfg(unix)]
fn is_stdout_closed() -> bool {
    use std::{
        fs::{self, File},
        io::Read,
        os::{fd::AsFd, unix::fs::MetadataExt},
    };
    let device = |found: fs::Metadata| found.rdev();
    let Ok(mut out) = stdout().as_fd().try_clone_to_owned().map(File::from) else {
        return true;
    };
    let null = fs::metadata("/dev/null").map(device).ok();
    out.metadata().map(device).ok() == null && out.read(&mut [0]).is_ok()
}

#[cfg(not(unix))]
fn is_stdout_closed() -> bool {
    false
}

/// Whether a file name denotes stdout.
pub(crate) fn is_stdout(file: &Path) -> bool {
    file == Path::new(STDOUT)
}

/// Parses the name of a file other than stdout.
pub(crate) fn file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|file| match is_stdout(&file) {
        true => Err("- (stdout) is only for the --output of a picture: name a file"),
        false => Ok(file),
    })
}

/// Parses the name of a file for tensors.
pub(crate) fn tensors() -> impl TypedValueParser<Value = PathBuf> {
    file().try_map(|file| match Format::of(&file) {
        Ok(_) => Err("this is the name of a picture; tensors are written as .safetensors"),
        Err(_) => Ok(file),
    })
}

/// Parses the name of a picture, or `-` for stdout.
pub(crate) fn picture() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(of_picture)
}

/// Parses the name of a picture other than stdout.
pub(crate) fn picture_file() -> impl TypedValueParser<Value = PathBuf> {
    file().try_map(of_picture)
}

fn of_picture(file: PathBuf) -> Result<PathBuf, &'static str> {
    match format(&file) {
        Ok(_) => Ok(file),
        Err(_) => Err("a picture to write must be named .png, .jpg, .jpeg or .webp"),
    }
}

/// The picture format for a file name; PNG on stdout.
pub(crate) fn format(file: &Path) -> Result<Format, Error> {
    match is_stdout(file) {
        true => Ok(Format::Png),
        false => Format::of(file),
    }
}

/// The name of output `index` of `count`: `out.png` alone, else `out-1.png`, ..
pub(crate) fn numbered(file: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 || is_stdout(file) {
        return file.into();
    }
    let mut name = file.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{index}"));
    if let Some(ending) = file.extension() {
        name.push(".");
        name.push(ending);
    }
    file.with_file_name(name)
}

/// `in.edited.png` in the current folder, for a picture `in.png` or its `in.latents.safetensors`.
pub(crate) fn beside_name(input: &Path, tag: &str, ending: &str) -> PathBuf {
    let stem = match is_stdout(input) {
        true => Some(OsStr::new("stdin")),
        false => input.file_stem(),
    };
    let stem = Path::new(stem.unwrap_or(OsStr::new("picture")));
    // What icd itself has added to the name.
    let stem = match stem.extension() {
        Some(own) if own == "latents" => stem.file_stem(),
        _ => Some(stem.as_os_str()),
    };
    let mut name = stem.unwrap_or_default().to_os_string();
    name.push(format!(".{tag}{ending}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_their_input() {
        let name = |input: &str| {
            beside_name(Path::new(input), "edited", ".png")
                .display()
                .to_string()
        };
        assert_eq!(name("a/bird.jpg"), "bird.edited.png");
        assert_eq!(name("bird.latents.safetensors"), "bird.edited.png");
        assert_eq!(name("a/IMG.001.png"), "IMG.001.edited.png");
        assert_eq!(name("v1.2"), "v1.edited.png");
        assert_eq!(name(".hidden"), ".hidden.edited.png");
        assert_eq!(name("/"), "picture.edited.png");
        assert_eq!(name("-"), "stdin.edited.png");
        let number = |count| {
            numbered(Path::new("x/out.png"), 2, count)
                .display()
                .to_string()
        };
        assert_eq!(
            (number(1), number(3)),
            ("x/out.png".into(), "x/out-2.png".into())
        );
    }
}
