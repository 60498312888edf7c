//! The diffusion model: its networks, and the loading of each network on demand.

pub mod attention;
mod bounds;
pub mod bundled;
pub mod clip;
pub mod config;
mod defaults;
mod facts;
mod family;
mod files;
mod identity;
mod loading;
mod manifest;
mod method;
mod parts;
mod presets;
mod required;
mod resnet;
mod single;
mod tensors;
mod text;
mod trained_on;
pub mod unet;
pub mod vae;
mod verify;
mod weight_files;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use candle_core::Device;

pub use defaults::DefaultBlend;
pub use family::{Family, LatentSampling};
pub(crate) use files::ADAPTER_FILES;
pub use files::{ModelChoice, ModelFiles};
pub use loading::Adapters;
pub use method::MethodName;
pub use presets::{PRESETS, Variant};
pub use required::required_files;
pub use text::{Conditioning, EncodedPrompts, TextEncoders, Tokenizers};
pub use trained_on::TrainedOn;
pub(crate) use weight_files::NETWORK_FILES;

use crate::{
    error::{Error, Result, Setting},
    hub::FileTree,
    io::{Digests, Source},
    layout::Network,
    nn::Placement,
    picture::Size,
    schedule::{DdimSteps, NoiseSchedule, Timesteps},
};
use files::DirectionAdapter;
use unet::UnetConfig;
use vae::{Tiling, VaeConfig};

/// A diffusion model with its two consistency adapters. Networks are loaded on
/// demand and owned by the caller.
#[derive(Debug)]
pub struct Model {
    parts: ModelFiles,
    schedule: NoiseSchedule,
    unet_file: Source,
    unet_config: UnetConfig,
    tiling: Tiling,
    placement: Placement,
    digests: Digests,
    known: Known,
}

/// What is read once of a model's files, which do not change while it is open.
#[derive(Debug, Default)]
struct Known {
    described: OnceLock<String>,
    tokenizers: OnceLock<Tokenizers>,
    forward: OnceLock<Timesteps>,
    reverse: OnceLock<Timesteps>,
    vae: OnceLock<VaeConfig>,
    /// The tokens of the words of the training.
    seen: OnceLock<Arc<BTreeSet<u32>>>,
}

/// Most pixels per side of the pictures that a model was trained on.
const MAX_SIDE: usize = 8192;

impl Model {
    /// Locates the parts of a model and reads their configurations.
    pub fn open(choice: &ModelChoice, placement: Placement) -> Result<Self> {
        let parts = ModelFiles::find(choice)?;
        let schedule = match parts.home.first("scheduler", &["scheduler_config.json"]) {
            Ok(file) => config::schedule(&file)?,
            Err(_) => NoiseSchedule::default(),
        };
        let unet_file = parts.file(Network::Unet)?;
        let unet_config = parts.unet_config()?;
        Ok(Self {
            parts,
            schedule,
            unet_file,
            unet_config,
            tiling: choice.tiling,
            placement,
            digests: choice.digests.clone(),
            known: Known::default(),
        })
    }

    /// Stable Diffusion 1.5 or SDXL.
    pub fn family(&self) -> Family {
        self.parts.family
    }

    /// Whether the UNet has the widths of its family's, and not only the structure.
    pub fn has_size_of_family(&self) -> bool {
        let own = self.unet_config.levels.iter();
        let usual = self.family().unet_config().levels;
        own.map(|level| level.channels)
            .eq(usual.iter().map(|level| level.channels))
    }

    /// The default method of the model's `icd.toml`, and its DDIM steps.
    pub fn method(&self) -> (MethodName, DdimSteps) {
        self.parts.method
    }

    /// Whether it has no part of a consistency model: neither adapters nor their timesteps.
    pub fn is_plain(&self) -> bool {
        let parts = &self.parts;
        [&parts.forward, &parts.reverse]
            .into_iter()
            .all(DirectionAdapter::is_empty)
    }

    /// The noise schedule.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// The configuration of the UNet.
    pub fn unet_config(&self) -> &UnetConfig {
        &self.unet_config
    }

    /// Pixels per latent value along each axis (8 for Stable Diffusion).
    pub fn latent_factor(&self) -> Result<usize> {
        Ok(self.vae_config()?.factor())
    }

    /// The size of the pictures that the model was trained on.
    pub fn size(&self) -> Result<Size> {
        let side = self.side()?;
        Ok(Size::new(side, side))
    }

    /// The size of the latents of pictures of a size.
    pub fn latent_size(&self, size: Size) -> Result<Size> {
        let factor = self.latent_factor()?;
        if size.width.is_multiple_of(factor) && size.height.is_multiple_of(factor) {
            return Ok(Size::new(size.width / factor, size.height / factor));
        }
        let reason = format!("{size}: sides must be multiples of {factor} for this model");
        Err(Error::of(Setting::Size, reason))
    }

    /// Side of the pictures that it was trained on, in pixels: at most 8192.
    pub fn side(&self) -> Result<usize> {
        let (latent, factor) = (self.unet_config.sample_size, self.latent_factor()?);
        match latent * factor {
            side @ ..=MAX_SIDE => Ok(side),
            _ => Err(Error::setting(format!(
                "the model's pictures would have {latent} times {factor} pixels per side: \
                 the maximum is {MAX_SIDE}"
            ))),
        }
    }

    fn vae_config(&self) -> Result<VaeConfig> {
        let read = || config::vae_config(&self.parts.home.file("vae/config.json")?);
        once(&self.known.vae, read)
    }

    /// The device of the networks.
    pub fn device(&self) -> &Device {
        &self.placement.device
    }

    /// The tokenizers; no weights are loaded.
    pub fn tokenizers(&self) -> Result<Tokenizers> {
        let open = || Tokenizers::open(&self.parts.home, self.family());
        once(&self.known.tokenizers, open)
    }

    /// Device, dtype and backend of the networks.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// What a cell holds, else what is made for it now.
fn once<T: Clone>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    match cell.get() {
        Some(known) => Ok(known.clone()),
        None => make().map(|made| cell.get_or_init(|| made).clone()),
    }
}

/// Whether `home` is a model folder in the diffusers layout.
pub(crate) fn is_model_folder(home: &FileTree) -> bool {
    home.has("model_index.json") || home.has("unet") || home.has("vae")
}
