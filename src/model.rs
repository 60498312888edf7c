//! The diffusion model: its networks, and the loading of each network on demand.

pub mod attention;
pub mod clip;
pub mod config;
mod family;
mod files;
mod fingerprint;
mod manifest;
mod presets;
mod required;
mod resnet;
mod shapes;
mod single;
mod text;
pub mod unet;
pub mod vae;

use candle_core::{DType, Device};

pub use family::{Family, LatentSampling};
pub(crate) use files::{ADAPTER_FILES, NETWORK_FILES};
pub use files::{ModelChoice, ModelFiles};
pub use presets::{PRESETS, Variant};
pub use required::required_files;
pub use text::{Conditioning, EncodedPrompts, TextEncoders, Tokenizers};

use crate::{
    error::{Error, Result, Setting},
    guidance::Tau,
    hub::FileTree,
    io::{Checkpoint, Source},
    kernel::instruction_set,
    layout::Network,
    lora::{self, AdapterFile},
    nn::{LoraDeltas, Placement, SharedLayers, Weights, sum_of},
    schedule::{NoiseSchedule, Timesteps},
};
use fingerprint::fingerprint;
use text::{lora_deltas, notes_of_loras};
use unet::{Unet, UnetConfig};
use vae::{Tiling, Vae, VaeConfig};

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
}

/// The adapters of a UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapters {
    /// None: the base model.
    None,
    /// The forward consistency adapter: picture to noise, for inversions.
    Forward,
    /// The reverse consistency adapter: noise to picture, for reconstructions.
    Reverse,
    /// The reverse one and the style LoRAs, for edits and generations.
    ReverseWithLoras,
}

/// The default guidance of generations, suited to the released models.
const GENERATION_GUIDANCE: f64 = 7.0;

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
        })
    }

    /// Stable Diffusion 1.5 or SDXL.
    pub fn family(&self) -> Family {
        self.parts.family
    }

    /// The default guidance of edits: from the model's `icd.toml`, else the family's.
    pub fn edit_guidance(&self) -> f64 {
        self.parts.guidance.unwrap_or(self.family().edit_guidance())
    }

    /// The default tau of edits: from the model's `icd.toml`, else the one that fits
    /// its reverse timesteps.
    pub fn edit_tau(&self) -> Result<Tau> {
        match self.parts.tau {
            Some(tau) => Ok(tau),
            None => Ok(Tau::usual_for(&self.reverse_timesteps()?)),
        }
    }

    /// The default guidance of generations.
    pub fn generation_guidance(&self) -> f64 {
        self.parts.guidance.unwrap_or(GENERATION_GUIDANCE)
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

    fn vae_config(&self) -> Result<VaeConfig> {
        config::vae_config(&self.parts.home.file("vae/config.json")?)
    }

    /// The device of the networks.
    pub fn device(&self) -> &Device {
        &self.placement.device
    }

    /// A short identifier of the UNet by its content.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(format!(
            "{} {}",
            self.family(),
            fingerprint(&self.unet_file)?
        ))
    }

    /// Everything an inversion depends on besides its picture, prompt, seed and
    /// timesteps: weights and tokenizers by content, configurations, dtypes, device
    /// and the instruction set of the CPU kernels.
    pub fn inversion_key(&self) -> Result<String> {
        let parts = &self.parts;
        let files = parts.all().into_iter().map(|part| parts.file(part));
        let mut files: Vec<_> = files.collect::<Result<_>>()?;
        let forward = parts.forward.adapter_file()?;
        files.extend(forward.as_ref().and_then(lora::config_beside));
        files.extend(forward);
        files.extend(text::tokenizer_files(&parts.home, self.family()));
        let prints = files.iter().map(fingerprint);
        let prints: Vec<_> = prints.collect::<Result<_>>()?;
        let (unet, vae) = (&self.unet_config, self.vae_config()?);
        let text = text::configs(&parts.home, self.family())?;
        let Placement {
            dtype,
            device,
            backend,
        } = &self.placement;
        Ok(format!(
            "{} {prints:?} {:?} {unet:?} {vae:?} {text:?} {:?} {:?} {dtype:?} {backend:?} {:?} {}",
            self.family(),
            parts.adapter_alpha,
            self.schedule,
            self.tiling,
            device.location(),
            instruction_set()
        ))
    }

    /// Number of parameters of each network, by name.
    pub fn parameter_counts(&self) -> Result<Vec<(String, usize)>> {
        let parts = self.parts.all().into_iter();
        parts
            .map(|part| Ok((part.to_string(), self.parts.open(part)?.values())))
            .collect()
    }

    /// The tokenizers; no weights are loaded.
    pub fn tokenizers(&self) -> Result<Tokenizers> {
        Tokenizers::open(&self.parts.home, self.family())
    }

    /// The text encoders with their tokenizers, without style LoRAs.
    pub fn text(&self) -> Result<TextEncoders> {
        TextEncoders::open(&self.parts, &self.placement, &[])
    }

    /// The text encoders for edits and generations, with the style LoRAs merged in.
    pub fn text_with_loras(&self) -> Result<TextEncoders> {
        let loras = self.parts.loras()?;
        TextEncoders::open(&self.parts, &self.placement, &loras)
    }

    /// The type of the autoencoder's weights.
    pub fn vae_dtype(&self) -> DType {
        self.family().vae_dtype(&self.placement)
    }

    /// The autoencoder.
    pub fn vae(&self) -> Result<Vae> {
        let checkpoint = self.parts.open(Network::Vae)?;
        let placement = Placement {
            dtype: self.vae_dtype(),
            ..self.placement.clone()
        };
        let vae = Vae::new(&Weights::new(&checkpoint, &placement), self.vae_config()?)?;
        Ok(vae.with_tiling(self.tiling))
    }

    /// The timesteps of an inversion, in ascending order.
    pub fn forward_timesteps(&self) -> Result<Timesteps> {
        let timesteps = self.parts.forward.timesteps(lora::forward_timesteps)?;
        let unknown = || unknown_timesteps(Setting::ForwardTimesteps, "19,259,519,779,999");
        timesteps.ok_or_else(unknown)?.ascending()
    }

    /// The timesteps of an edit or a generation, in descending order.
    pub fn reverse_timesteps(&self) -> Result<Timesteps> {
        let timesteps = self.parts.reverse.timesteps(lora::reverse_timesteps)?;
        let unknown = || unknown_timesteps(Setting::ReverseTimesteps, "999,779,519,259,0");
        timesteps.ok_or_else(unknown)?.descending()
    }

    /// The UNet with these adapters merged in.
    pub fn unet(&self, adapters: Adapters) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        let deltas = self.deltas(&checkpoint, adapters)?;
        let weights = Weights::new(&checkpoint, &self.placement);
        Unet::new(&weights.with_merged_lora(&deltas), self.unet_config.clone())
    }

    /// As [`unet`](Self::unet), on base layers shared with other UNets, adapters unmerged.
    pub fn unet_on(&self, layers: &SharedLayers, adapters: Adapters) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        let deltas = self.deltas(&checkpoint, adapters)?;
        let weights = Weights::new(&checkpoint, &self.placement).with_shared_layers(layers);
        Unet::new(&weights.with_lora(&deltas), self.unet_config.clone())
    }

    /// What a user should know of the adapters: scales that their files do not state, and
    /// tensors that are left out. A style LoRA that changes nothing is an error; the errors
    /// of the two other adapters come when they are used.
    pub fn notes_of_adapters(&self) -> Result<Vec<String>> {
        let mut notes = notes_of_loras(&self.parts)?;
        for direction in [&self.parts.forward, &self.parts.reverse] {
            if let Ok(Some(file)) = direction.adapter_file() {
                notes.extend(self.notes_of(&file).unwrap_or_default());
            }
        }
        Ok(notes)
    }

    fn notes_of(&self, adapter: &Source) -> Result<Vec<String>> {
        let unet = self.unet_checkpoint()?;
        let file = AdapterFile::open(adapter, self.parts.adapter_alpha)?;
        file.placed(&[(Network::Unet, &unet)])?.notes()
    }

    /// Whether style LoRAs are configured.
    pub fn has_loras(&self) -> bool {
        !self.parts.loras.is_empty()
    }

    /// Opens the UNet's weight file.
    pub fn unet_checkpoint(&self) -> Result<Checkpoint> {
        self.parts.open(Network::Unet)
    }

    /// The UNet's config.json.
    pub fn unet_settings(&self) -> Result<serde_json::Value> {
        match self.parts.unet_config_file()? {
            Some(file) => config::read_json(&file),
            None => Err(Error::config(
                &self.unet_file,
                "it has no config.json beside it",
            )),
        }
    }

    /// Device, dtype and backend of the networks.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The sum of the adapters' weight deltas for the UNet.
    fn deltas(&self, checkpoint: &Checkpoint, adapters: Adapters) -> Result<LoraDeltas> {
        let parts = &self.parts;
        let (adapter, loras) = match adapters {
            Adapters::None => return Ok(LoraDeltas::new()),
            Adapters::Forward => (&parts.forward, Vec::new()),
            Adapters::Reverse => (&parts.reverse, Vec::new()),
            Adapters::ReverseWithLoras => (&parts.reverse, parts.loras()?),
        };
        let mut layers = vec![(lora_deltas(parts, &loras, Network::Unet)?, 1.0)];
        if let Some(file) = adapter.adapter_file()? {
            let file = AdapterFile::open(&file, parts.adapter_alpha)?;
            let networks = [(Network::Unet, checkpoint)];
            let rounding = self.family().adapter_rounding();
            let deltas = file.placed(&networks)?.deltas(Network::Unet, rounding)?;
            layers.push((deltas, 1.0));
        }
        Ok(sum_of(&layers)?)
    }
}

fn unknown_timesteps(setting: Setting, example: &str) -> Error {
    let reason = format!(
        "neither the metadata nor the file name of an adapter states them: set them, as in {example}"
    );
    Error::of(setting, reason)
}

/// Whether `home` is a model folder in the diffusers layout.
pub(crate) fn is_model_folder(home: &FileTree) -> bool {
    home.has("model_index.json") || home.has("unet") || home.has("vae")
}
