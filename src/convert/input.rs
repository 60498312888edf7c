//! The input of a conversion, and the kind of weights it contains.

use std::{fmt, path::Path};

use crate::{
    error::Result,
    hub::{Cache, FileTree, Location, RequiredFile},
    io::{Checkpoint, Source},
    lora::{self, is_adapter},
    model::{ADAPTER_FILES, NETWORK_FILES},
};

/// The configuration file of a network in the diffusers layout.
pub(super) const CONFIG: &str = "config.json";

/// The kind of a weights file, detected from its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A LoRA adapter.
    Adapter,
    /// A UNet with diffusers' tensor names.
    Unet,
    /// Anything else.
    Other,
}

impl Kind {
    fn of(checkpoint: &Checkpoint) -> Self {
        const UNET: [&str; 3] = [
            "conv_in.weight",
            "time_embedding.linear_1.weight",
            "conv_out.weight",
        ];
        let is_unet = || UNET.iter().all(|name| checkpoint.shape(name).is_some());
        match is_adapter(checkpoint) {
            true => Self::Adapter,
            false if is_unet() => Self::Unet,
            false => Self::Other,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adapter => "an adapter",
            Self::Unet => "a UNet",
            Self::Other => "other weights",
        })
    }
}

/// An opened weights file to convert.
pub struct Input {
    pub(super) source: Source,
    pub(super) checkpoint: Checkpoint,
    folder: FileTree,
    /// The cache in which adapters from the hub are looked up.
    pub(super) cache: Cache,
    kind: Kind,
}

impl Input {
    /// The hub files required for a weights file or folder, with its configuration.
    pub fn needs(text: &str, cache: &Cache) -> Result<Vec<RequiredFile>> {
        let reference = Location::parse(text, Path::new(""), cache)?;
        let folder = Location::Folder(reference.folder());
        let needs = [
            reference.need(&names(), false),
            folder.need(&[CONFIG], true),
            folder.need(&[lora::CONFIG], true),
        ];
        Ok(needs.into_iter().flatten().collect())
    }

    /// Opens a file, the weights in a folder (for a model folder, those of its
    /// UNet), or `hub:owner/name[/file]`.
    pub fn open(text: &str, cache: &Cache) -> Result<Self> {
        let reference = match Location::parse(text, Path::new(""), cache)? {
            Location::Folder(home) if home.has("unet") => Location::Folder(home.within("unet")),
            other => other,
        };
        let source = reference.file(&names())?;
        let checkpoint = Checkpoint::open(&source)?;
        Ok(Self {
            kind: Kind::of(&checkpoint),
            folder: reference.folder(),
            cache: cache.clone(),
            source,
            checkpoint,
        })
    }

    /// The kind of weights in the file.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The configuration next to it.
    pub(super) fn config(&self) -> Result<Source> {
        self.folder.file(CONFIG)
    }
}

/// Possible names of the weights file in a folder.
fn names() -> Vec<&'static str> {
    NETWORK_FILES.into_iter().chain(ADAPTER_FILES).collect()
}
