//! The diffusion model: its networks, and the loading of each network on demand.

pub mod attention;
mod bounds;
pub mod clip;
pub mod config;
mod family;
mod files;
mod identity;
mod manifest;
mod method;
mod parts;
mod presets;
mod required;
mod resnet;
mod shapes;
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

use candle_core::{DType, Device};

pub use family::{Family, LatentSampling};
pub(crate) use files::ADAPTER_FILES;
pub use files::{ModelChoice, ModelFiles};
pub use method::MethodName;
pub use presets::{PRESETS, Variant};
pub use required::required_files;
pub use text::{Conditioning, EncodedPrompts, TextEncoders, Tokenizers};
pub use trained_on::TrainedOn;
pub(crate) use weight_files::NETWORK_FILES;

use crate::{
    error::{Error, Result, Setting},
    guidance::Tau,
    hub::FileTree,
    io::{Checkpoint, Digests, Source},
    layout::Network,
    lora::{self, AdapterFile},
    nn::{GradientSink, LoraDeltas, Placement, SharedLayers, Taken, Weights, sum_of},
    picture::Size,
    schedule::{DdimSteps, NoiseSchedule, Timesteps},
};
use config::ConfigKind;
use files::DirectionAdapter;
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

/// The adapters of a UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapters {
    /// None: the base model.
    None,
    /// The style LoRAs alone.
    Loras,
    /// The forward consistency adapter: picture to noise, for inversions.
    Forward,
    /// The reverse consistency adapter: noise to picture, for reconstructions.
    Reverse,
    /// The reverse one and the style LoRAs, for edits and generations.
    ReverseWithLoras,
}

/// The default guidance of generations, suited to the released models.
const GENERATION_GUIDANCE: f64 = 7.0;

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

    /// The default guidance of edits: from the model's `icd.toml`, else the family's.
    pub fn edit_guidance(&self) -> f64 {
        let (stated, _) = self.stated_guidance(MethodName::Icd);
        stated.unwrap_or(self.family().edit_guidance())
    }

    /// The default tau of edits: from the model's `icd.toml`, else the one that fits
    /// its reverse timesteps.
    pub fn edit_tau(&self) -> Result<Tau> {
        match self.stated_guidance(MethodName::Icd).1 {
            Some(tau) => Ok(tau),
            None => Ok(Tau::usual_for(&self.reverse_timesteps()?)),
        }
    }

    /// The guidance and the tau that the model's `icd.toml` states for edits by this method:
    /// what it states is for its own default method.
    pub fn stated_guidance(&self, method: MethodName) -> (Option<f64>, Option<Tau>) {
        match self.parts.method.0 == method {
            true => (self.parts.guidance, self.parts.tau),
            false => (None, None),
        }
    }

    /// The default guidance of generations.
    pub fn generation_guidance(&self) -> f64 {
        let (stated, _) = self.stated_guidance(MethodName::Icd);
        stated.unwrap_or(GENERATION_GUIDANCE)
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

    /// What a user should know of the model's files: fields that are passed over, and
    /// networks that a single-file checkpoint lacks.
    pub fn notes(&self) -> Result<Vec<String>> {
        let home = &self.parts.home;
        let mut notes = Vec::new();
        for network in self.parts.taken_from_folder() {
            notes.push(format!(
                "the checkpoint holds no {network}: that of {} is used",
                home.path().display()
            ));
        }
        let mut add = |file: Option<Source>, kind| -> Result<()> {
            if let Some(file) = file {
                notes.extend(config::unknown_fields(&file, kind)?);
            }
            Ok(())
        };
        let scheduler = home.file("scheduler/scheduler_config.json").ok();
        add(scheduler, ConfigKind::Scheduler)?;
        add(home.file("vae/config.json").ok(), ConfigKind::Vae)?;
        add(self.parts.unet_config_file()?, ConfigKind::Unet)?;
        for file in text::encoder_configs(home, self.family()) {
            add(file, ConfigKind::Text)?;
        }
        Ok(notes)
    }

    /// The bytes of each network's weights in memory.
    pub fn weight_bytes(&self) -> Result<Vec<(Network, usize)>> {
        let bytes = |part| {
            let dtype = match part {
                Network::Vae => self.vae_dtype(),
                _ => self.placement.dtype,
            };
            Ok((
                part,
                self.parts.open(part)?.values() * dtype.size_in_bytes(),
            ))
        };
        self.parts.all().into_iter().map(bytes).collect()
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
        let open = || Tokenizers::open(&self.parts.home, self.family());
        once(&self.known.tokenizers, open)
    }

    /// The text encoders with their tokenizers, without style LoRAs.
    pub fn text(&self) -> Result<TextEncoders> {
        TextEncoders::open(self.tokenizers()?, &self.parts, (&self.placement, &[]))
    }

    /// The text encoders for edits and generations, with the style LoRAs merged in.
    pub fn text_with_loras(&self) -> Result<TextEncoders> {
        let loras = self.parts.loras()?;
        TextEncoders::open(self.tokenizers()?, &self.parts, (&self.placement, &loras))
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
        let taken = Taken::default();
        let weights = Weights::new(&checkpoint, &placement).noting(&taken);
        let vae = Vae::new(&weights, self.vae_config()?)?;
        tensors::check_taken(&checkpoint, &taken, Network::Vae)?;
        Ok(vae.with_tiling(self.tiling))
    }

    /// The timesteps of an inversion, in ascending order.
    pub fn forward_timesteps(&self) -> Result<Timesteps> {
        let read = || {
            let timesteps = self.parts.forward.timesteps(lora::forward_timesteps)?;
            let unknown =
                || self.unknown_timesteps(Setting::ForwardTimesteps, "19,259,519,779,999");
            timesteps.ok_or_else(unknown)?.ascending()
        };
        once(&self.known.forward, read)
    }

    /// The timesteps of an edit or a generation, in descending order.
    pub fn reverse_timesteps(&self) -> Result<Timesteps> {
        let read = || {
            let timesteps = self.parts.reverse.timesteps(lora::reverse_timesteps)?;
            let unknown = || self.unknown_timesteps(Setting::ReverseTimesteps, "999,779,519,259,0");
            timesteps.ok_or_else(unknown)?.descending()
        };
        once(&self.known.reverse, read)
    }

    /// The error of timesteps that nothing states.
    fn unknown_timesteps(&self, setting: Setting, example: &str) -> Error {
        match self.is_plain() {
            true => Error::of(
                Setting::Method,
                "icd needs consistency adapters, and the model names none: name them, or choose \
                 ddim, npi or nti",
            ),
            false => Error::of(
                setting,
                format!(
                    "neither the metadata nor the file name of an adapter states them: set them, \
                     as in {example}"
                ),
            ),
        }
    }

    /// The UNet with these adapters merged in.
    pub fn unet(&self, adapters: Adapters) -> Result<Unet> {
        self.changed_unet(adapters, None)
    }

    /// As [`unet`](Self::unet), on base layers shared with other UNets, adapters unmerged.
    pub fn unet_on(&self, layers: &SharedLayers, adapters: Adapters) -> Result<Unet> {
        self.changed_unet(adapters, Some(layers))
    }

    /// The UNet without adapters, in f32, for gradients of its inputs: the activations of its
    /// blocks are computed anew in the backward pass, which saves memory.
    pub fn differentiable_unet(&self) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        tensors::check_unet(&checkpoint, &self.unet_config)?;
        let placement = self.placement.in_f32();
        let weights = Weights::new(&checkpoint, &placement);
        let unet = Unet::new(&weights, self.unet_config.clone())?;
        Ok(unet.with_gradient_checkpointing(&GradientSink::default()))
    }

    /// The UNet changed by adapters. What is wrong with the UNet itself is told first: the
    /// adapters would not fit it either.
    fn changed_unet(&self, adapters: Adapters, layers: Option<&SharedLayers>) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        tensors::check_unet(&checkpoint, &self.unet_config)?;
        let taken = Taken::default();
        let weights = Weights::new(&checkpoint, &self.placement).noting(&taken);
        let build = |weights: &Weights| Unet::new(weights, self.unet_config.clone());
        let deltas = self.deltas(&checkpoint, adapters);
        let deltas = deltas.map_err(|error| match build(&weights) {
            Err(of_unet) => of_unet,
            Ok(_) => self.with_unet_named(error),
        })?;
        let weights = match layers {
            Some(layers) => weights.with_shared_layers(layers).with_lora(&deltas),
            None => weights.with_merged_lora(&deltas),
        };
        let unet = build(&weights)?;
        tensors::check_taken(&checkpoint, &taken, Network::Unet)?;
        Ok(unet)
    }

    /// An adapter that does not fit a UNet that replaces the model's may be right.
    fn with_unet_named(&self, error: Error) -> Error {
        match (error, self.parts.unet_is_replaced()) {
            (Error::Adapter { file, reason }, true) => {
                let unet = self.unet_file.name().display();
                Error::adapter(file, format!("{reason}; the UNet is {unet}"))
            }
            (error, _) => error,
        }
    }

    /// What a user should know of the adapters: scales that their files do not state, and
    /// tensors that are left out. A style LoRA that changes nothing is an error; the errors
    /// of the two other adapters come when they are used.
    pub fn notes_of_adapters(&self) -> Result<Vec<String>> {
        let mut notes = notes_of_loras(&self.parts)?;
        for direction in [&self.parts.forward, &self.parts.reverse] {
            // Of the bundled ones there is nothing to know, and they are quickly used.
            if let Ok(Some(file)) = direction.adapter_file()
                && file.in_program().is_none()
            {
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

    /// Whether no prompt stands for zeros and not for the states of the empty one: of SDXL,
    /// unless its index says otherwise (`force_zeros_for_empty_prompt`).
    pub fn zeroes_empty_prompt(&self) -> Result<bool> {
        if self.family() == Family::Sd15 {
            return Ok(false);
        }
        let Ok(index) = self.parts.home.file("model_index.json") else {
            return Ok(true);
        };
        let index: serde_json::Value = config::read_json(&index)?;
        let stated = index.get("force_zeros_for_empty_prompt");
        Ok(stated.and_then(serde_json::Value::as_bool).unwrap_or(true))
    }

    /// Whether style LoRAs are configured.
    pub fn has_loras(&self) -> bool {
        !self.parts.loras.is_empty()
    }

    /// Opens the UNet's weight file.
    pub fn unet_checkpoint(&self) -> Result<Checkpoint> {
        self.parts.open(Network::Unet)
    }

    /// Opens the autoencoder's weight file.
    pub(crate) fn vae_checkpoint(&self) -> Result<Checkpoint> {
        self.parts.open(Network::Vae)
    }

    /// The bytes of a decoder's activations at once, where a channel at full resolution takes
    /// `channel` bytes: five feature maps, or little more than one in strips.
    pub(crate) fn decoder_bytes(&self, channel: usize) -> Result<usize> {
        let [map, largest] = self.vae_config()?.finest().map(|count| count * channel);
        Ok(match self.tiling.cuts([map, largest]) {
            true => map + map / 3,
            false => 5 * map,
        })
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
            Adapters::Loras => return lora_deltas(parts, &parts.loras()?, Network::Unet),
            Adapters::Forward => (&parts.forward, Vec::new()),
            Adapters::Reverse => (&parts.reverse, Vec::new()),
            Adapters::ReverseWithLoras => (&parts.reverse, parts.loras()?),
        };
        let mut layers = vec![lora_deltas(parts, &loras, Network::Unet)?];
        if let Some(file) = adapter.adapter_file()? {
            let file = AdapterFile::open(&file, parts.adapter_alpha)?;
            let networks = [(Network::Unet, checkpoint)];
            let rounding = self.family().adapter_rounding();
            let placed = file.placed(&networks)?;
            layers.push(placed.deltas(Network::Unet, 1.0, rounding)?);
        }
        Ok(sum_of(layers)?)
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
