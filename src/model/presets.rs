//! The models that have a name: where the reference's weights are published
//! (<https://github.com/yandex-research/invertible-cd>).

use super::{Family, shapes};
use crate::hub::{Cache, FileTree, Location, Repository};

/// The models that have a name; any other word is a folder.
pub const PRESETS: [&str; 3] = ["sd15", "sdxl", shapes::NAME];

/// Which of a preset's adapter pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Four steps, for tau 0.8.
    FourA,
    /// Four steps, for tau 0.7.
    FourB,
    /// Three steps, for tau 0.7.
    Three,
}

impl Variant {
    fn adapters(self) -> [&'static str; 2] {
        match self {
            Self::FourA => ["forward-19-259-519-779", "reverse-259-519-779-999"],
            Self::FourB => ["forward-19-249-499-699", "reverse-249-499-699-999"],
            Self::Three => ["forward-19-339-699", "reverse-339-699-999"],
        }
    }
}

/// A model of the hub that has a name. None of its repositories names a
/// release, so that their newest state is taken.
#[derive(Debug)]
pub(super) struct Preset {
    name: &'static str,
    pub(super) family: Family,
    /// Text encoders, tokenizers, autoencoder and scheduler.
    pub(super) base: &'static str,
    /// The UNet that was taught guidance.
    pub(super) unet: &'static str,
    adapters: &'static str,
    usual: Variant,
}

const OF_HUB: [Preset; 2] = [
    Preset {
        name: "sd15",
        family: Family::Sd15,
        base: "stable-diffusion-v1-5/stable-diffusion-v1-5",
        unet: "dbaranchuk/sd15-cfg-distill-unet",
        adapters: "dbaranchuk/icd-lora-sd15",
        usual: Variant::FourA,
    },
    Preset {
        name: "sdxl",
        family: Family::Sdxl,
        base: "stabilityai/stable-diffusion-xl-base-1.0",
        unet: "dbaranchuk/sdxl-cfg-distill-unet",
        adapters: "dbaranchuk/icd-lora-sdxl",
        usual: Variant::FourB,
    },
];

impl Preset {
    /// The preset of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        OF_HUB.iter().find(|preset| preset.name == name)
    }

    /// The adapters of a variant: into noise and back.
    pub(super) fn adapters(&self, variant: Option<Variant>, cache: &Cache) -> [Location; 2] {
        variant.unwrap_or(self.usual).adapters().map(|name| {
            let home = FileTree::hub(cache, Repository::new(self.adapters));
            Location::File(home, format!("{name}.safetensors"))
        })
    }
}
