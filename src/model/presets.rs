//! The named models: the published weights of the reference implementation
//! (<https://github.com/yandex-research/invertible-cd>).

use clap::ValueEnum;

use super::{Family, bundled};
use crate::hub::{Cache, FileTree, Location, Repository};

/// The named models; any other value is a folder.
pub const PRESETS: [&str; 3] = ["sd15", "sdxl", bundled::NAME];

/// The adapter pair of a preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Four steps, for tau 0.8.
    #[value(name = "4a", help = None)]
    FourA,
    /// Four steps, for tau 0.7.
    #[value(name = "4b", help = None)]
    FourB,
    /// Three steps, for tau 0.7.
    #[value(name = "3", help = None)]
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

/// A named model on the Hugging Face Hub. Its repositories have no tagged revision, so
/// the latest one is used.
#[derive(Debug)]
pub(super) struct Preset {
    name: &'static str,
    pub(super) family: Family,
    /// The repository of text encoders, tokenizers, autoencoder and scheduler.
    pub(super) base: &'static str,
    /// The repository of the guidance-distilled UNet.
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

    /// The forward and reverse adapters of a variant.
    pub(super) fn adapters(&self, variant: Option<Variant>, cache: &Cache) -> [Location; 2] {
        variant.unwrap_or(self.usual).adapters().map(|name| {
            let home = FileTree::hub(cache, Repository::new(self.adapters));
            Location::File(home, format!("{name}.safetensors"))
        })
    }
}
