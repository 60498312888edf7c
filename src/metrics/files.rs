//! The weights of networks that measure.

use std::{fmt, path::Path};

use crate::{
    error::{Error, Result},
    hub::{Cache, FileTree, Location, Repository, RequiredFile},
    io::{Checkpoint, Source},
    prompt::Tokenizer,
};

/// A network that measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// SqueezeNet 1.1, for LPIPS.
    Lpips,
    /// CLIP, for the CLIP score.
    Clip,
    /// DINO, for the structure distance.
    Dino,
    /// DINOv2, for its similarity.
    Dinov2,
}

/// Names of weights in a folder, the preferred first.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// Names of SqueezeNet's.
const SQUEEZENET: [&str; 3] = [
    "squeezenet1_1.safetensors",
    "squeezenet1_1-b8a52dc0.pth",
    "squeezenet1_1-f364aa15.pth",
];

/// Names of LPIPS's linear layers beside it: the package `lpips` and torchmetrics have the last.
const LINEAR: [&str; 2] = ["squeeze.safetensors", "squeeze.pth"];
/// Where they are from.
const LINEAR_ORIGIN: &str = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/\
     master/lpips/weights/v0.1/squeeze.pth (11 kB, BSD-2-Clause; saved again by PyTorch 1.6 or \
     newer, whose files are archives)";

impl Network {
    /// The repository of the hub that has the weights of the published figures.
    pub fn repository(self) -> Option<&'static str> {
        match self {
            Self::Lpips => None,
            Self::Clip => Some("openai/clip-vit-large-patch14"),
            Self::Dino => Some("facebook/dino-vitb8"),
            Self::Dinov2 => Some("facebook/dinov2-base"),
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Lpips => &SQUEEZENET,
            _ => &WEIGHTS,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lpips => "SqueezeNet 1.1",
            Self::Clip => "CLIP",
            Self::Dino => "DINO",
            Self::Dinov2 => "DINOv2",
        })
    }
}

/// Where the weights of a network are, and what else it needs.
#[derive(Clone, Debug)]
pub struct NetworkFiles {
    network: Network,
    place: Location,
}

impl NetworkFiles {
    /// The weights of the published figures, on the hub. That of [`Network::Lpips`] has none of
    /// its authors: the error says where to get them.
    pub fn published(network: Network, cache: &Cache) -> Result<Self> {
        let Some(name) = network.repository() else {
            return Err(Error::setting(format!(
                "the weights of LPIPS are not on the hub: download \
                 https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth (4.7 MB, \
                 BSD-3-Clause) and {LINEAR_ORIGIN} into a folder and name it",
            )));
        };
        let home = FileTree::hub(cache, Repository::new(name));
        Ok(Self {
            network,
            place: Location::Folder(home),
        })
    }

    /// Weights in a file, a folder or a repository, as `FILE`, `DIR` or `hub:owner/name`.
    pub fn named(network: Network, text: &str, cache: &Cache) -> Result<Self> {
        let place = Location::parse(text, Path::new(""), cache)?;
        Ok(Self { network, place })
    }

    /// The network.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Where the weights are, as it is told.
    pub fn name(&self) -> String {
        let home = self.place.home().path();
        match &self.place {
            Location::File(_, name) => home.join(name).display().to_string(),
            Location::Folder(_) => home.display().to_string(),
        }
    }

    /// The file of the weights, which must exist (on the hub: in the cache).
    pub fn weights(&self) -> Result<Source> {
        self.place.file(self.network.names())
    }

    /// The files on the hub that it requires.
    pub fn required(&self) -> Vec<RequiredFile> {
        let mut needs = vec![self.place.need(self.network.names(), false)];
        if self.network == Network::Clip {
            let folder = Location::Folder(self.place.folder());
            needs.push(folder.need(&["vocab.json"], false));
            needs.push(folder.need(&["merges.txt"], false));
            needs.push(folder.need(&["tokenizer_config.json"], true));
        }
        needs.into_iter().flatten().collect()
    }

    /// The file of LPIPS's linear layers beside the weights of SqueezeNet.
    pub(super) fn linear_layers(&self) -> Result<Source> {
        let folder = self.place.folder();
        let mut names = LINEAR.iter();
        let found = names.find_map(|name| folder.file(name).ok());
        found.ok_or_else(|| {
            let reason = format!("LPIPS's linear layers are not here: add {LINEAR_ORIGIN}");
            Error::config(folder.path(), reason)
        })
    }

    /// The weights of a network, which must be that of these files.
    pub(super) fn checkpoint(&self, wanted: Network) -> Result<Checkpoint> {
        if self.network != wanted {
            let other = self.network;
            return Err(Error::setting(format!(
                "{wanted} was given the files of {other}"
            )));
        }
        Checkpoint::open(self.weights()?)
    }

    /// The tokenizer beside the weights.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let folder = self.place.folder();
        let file = |name: &str| -> Result<Source> { folder.file(name) };
        let config = file("tokenizer_config.json").ok();
        match (file("vocab.json"), file("merges.txt")) {
            (Ok(vocabulary), Ok(merges)) => {
                Tokenizer::from_bpe(&vocabulary, &merges, config.as_ref())
            }
            (Err(missing), _) | (_, Err(missing)) => match file("tokenizer.json") {
                Ok(json) => Tokenizer::from_json(&json, config.as_ref()),
                Err(_) => Err(missing),
            },
        }
    }
}
