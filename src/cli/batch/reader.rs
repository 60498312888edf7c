//! The files that jobs read. Jobs that follow each other often read the same ones, which are
//! kept until another one is read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use icd::picture::Picture;

use crate::cli::{
    Console,
    canvas::Input,
    commands::{edit::EditArgs, invert::InvertArgs},
    picture,
    settings::InputHash,
};

/// The last input and the last mask.
#[derive(Default)]
pub(super) struct Reader {
    input: Option<(PathBuf, Arc<(Input, InputHash)>)>,
    mask: Option<(PathBuf, Arc<Picture>)>,
}

impl Reader {
    /// The picture or the latents of an edit.
    pub(super) fn edited(
        &mut self,
        args: &EditArgs,
        console: &Console,
    ) -> Result<Arc<(Input, InputHash)>> {
        let file = args.input().unwrap_or(Path::new(""));
        kept(&mut self.input, file, || args.read(console))
    }

    /// The picture of an inversion.
    pub(super) fn inverted(
        &mut self,
        args: &InvertArgs,
        console: &Console,
    ) -> Result<Arc<(Input, InputHash)>> {
        kept(&mut self.input, &args.image, || {
            let (photo, hash) = picture::read_hashed(&args.image, console)?;
            Ok((Input::Photo(photo), hash))
        })
    }

    /// The mask of an edit.
    pub(super) fn mask(
        &mut self,
        args: &EditArgs,
        console: &Console,
    ) -> Result<Option<Arc<Picture>>> {
        let file = args.result.mask.as_deref();
        let read = |file| kept(&mut self.mask, file, || picture::read_mask(file, console));
        file.map(read).transpose()
    }
}

/// What was read of this file last, else what is read now.
fn kept<T>(
    last: &mut Option<(PathBuf, Arc<T>)>,
    file: &Path,
    read: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    if let Some((_, kept)) = last.as_ref().filter(|(kept, _)| kept == file) {
        return Ok(kept.clone());
    }
    *last = None; // two are never in memory
    let found = Arc::new(read()?);
    *last = Some((file.into(), found.clone()));
    Ok(found)
}
