//! Adapter files: three naming conventions for LoRA weights.
//!
//! | convention | example |
//! |---|---|
//! | PEFT | `unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight` |
//! | diffusers | `unet.mid_block.resnets.0.conv1.lora_A.weight`, older `..lora.down.weight` |
//! | kohya | `lora_unet_mid_block_resnets_0_conv1.lora_down.weight`, with `.alpha` |
//!
//! A file's metadata may state the timesteps its model was distilled on
//! (`icd.path`) and its alpha (`icd.alpha`); the released files state the
//! timesteps in their names only.

mod layers;
mod names;
mod naming;
mod trainable;
mod weighted;
mod words;

use candle_core::{DType, Device, Tensor};

use crate::{
    error::{Error, Result, Setting},
    io::{Checkpoint, Metadata, Source, safetensors_metadata},
    layout::Network,
    nn::{LoraDelta, LoraDeltas},
    schedule::Timesteps,
};
use layers::layers_of;

pub(crate) use layers::{Layer, RELEASED_ALPHA, is_adapter, layers, usual_alpha};
pub(crate) use names::Factor;
pub use naming::Naming;
pub use trainable::{LoraConfig, TARGET_MODULES, TrainableAdapter};
pub use weighted::WeightedLora;

/// The metadata key of an adapter file's timesteps.
pub(crate) const TIMESTEPS: &str = "icd.path";
/// The metadata key of its alpha.
pub(crate) const ALPHA: &str = "icd.alpha";
/// The metadata key under which diffusers stores the LoRA configuration, in JSON.
pub(crate) const DIFFUSERS_METADATA: &str = "lora_adapter_metadata";

/// How to interpret an adapter file.
#[derive(Clone, Copy, Debug)]
pub struct AdapterOptions {
    /// Alpha for files that state none; the scale is alpha / rank. With `None`
    /// alpha is the rank, so the scale is 1.
    pub alpha: Option<f64>,
    /// The dtype the factors are rounded to before merging. The reference
    /// rounds those of SD1.5 to f16 and leaves those of SDXL unrounded.
    pub rounding: DType,
}

/// The LoRA deltas of one adapter file.
#[derive(Clone, Debug)]
pub struct Adapter {
    changes: LoraDeltas,
}

impl Adapter {
    /// Reads the adapter in `file` for the network whose tensors are in
    /// `base`. Every tensor of the file must match a layer of `base`.
    pub fn read(
        file: impl Into<Source>,
        base: &Checkpoint,
        options: AdapterOptions,
    ) -> Result<Self> {
        let file = file.into();
        let adapter = Self::read_of(&file, None, base, options)?;
        match adapter.changes.is_empty() {
            true => Err(Error::adapter(file, "it holds no adapter tensors")),
            false => Ok(adapter),
        }
    }

    /// Reads the layers for `network`, whose tensors are in `base`, from a file
    /// that may cover several networks; the result may be empty.
    pub fn read_part(
        file: &Source,
        network: Network,
        base: &Checkpoint,
        options: AdapterOptions,
    ) -> Result<Self> {
        Self::read_of(file, Some(network), base, options)
    }

    fn read_of(
        file: &Source,
        network: Option<Network>,
        base: &Checkpoint,
        options: AdapterOptions,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(file)?;
        let alpha = stated_alpha(file)?.or(options.alpha);
        let load = |name: &str| -> Result<Tensor> {
            let tensor = checkpoint.load(name, &Device::Cpu)?;
            Ok(tensor.to_dtype(options.rounding)?.to_dtype(DType::F32)?)
        };
        let delta = |layer: Layer| {
            let delta = LoraDelta {
                down: load(&layer.down)?,
                up: load(&layer.up)?,
                scale: layer.alpha / layer.rank.max(1) as f64,
            };
            Ok((layer.module, delta))
        };
        let layers = layers_of(&checkpoint, network, base, alpha)?.into_iter();
        let changes = layers.map(delta).collect::<Result<_>>()?;
        Ok(Self { changes })
    }

    /// The deltas by module path.
    pub fn deltas(&self) -> &LoraDeltas {
        &self.changes
    }
}

/// The timesteps that an adapter file states in its metadata or its name. The
/// released names omit the last one, which is the same for a given direction.
fn stated_timesteps(file: &Source) -> Result<Option<Vec<u16>>> {
    Ok(match noted_timesteps(file)? {
        Some(noted) => Some(noted.as_slice().iter().map(|t| t.0).collect()),
        None => names::timesteps_of(file.name()),
    })
}

/// The timesteps in an adapter file's metadata.
fn noted_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let noted = safetensors_metadata(file)?.remove(TIMESTEPS);
    let noted = noted.map(|text| text.parse()).transpose();
    noted.map_err(|error| Error::adapter(file, error))
}

/// The forward timesteps that an adapter file states, if any: ascending, and
/// ending at 999 (the released names omit the 999).
pub fn forward_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let ended = |mut timesteps: Vec<u16>| {
        timesteps.sort_unstable();
        ended_at(999, timesteps, file, Timesteps::forward)
    };
    stated_timesteps(file)?.map(ended).transpose()
}

/// The reverse timesteps that an adapter file states, if any: descending, and
/// ending at 0 (the released names are in ascending order and omit the 0).
pub fn reverse_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let ended = |mut timesteps: Vec<u16>| {
        timesteps.sort_unstable_by(|a, b| b.cmp(a));
        ended_at(0, timesteps, file, Timesteps::reverse)
    };
    stated_timesteps(file)?.map(ended).transpose()
}

fn ended_at(
    last: u16,
    mut timesteps: Vec<u16>,
    file: &Source,
    make: fn(&[u16]) -> Result<Timesteps>,
) -> Result<Timesteps> {
    if timesteps.last() != Some(&last) {
        timesteps.push(last);
    }
    make(&timesteps).map_err(|error| Error::adapter(file, error))
}

/// The timesteps in an adapter file's metadata, else those in its name, for the
/// direction stated there.
pub fn timesteps(file: &Source) -> Result<Option<Timesteps>> {
    if let Some(noted) = noted_timesteps(file)? {
        return Ok(Some(noted));
    }
    let name = file.name().file_name().unwrap_or_default();
    match name.to_string_lossy().contains("forward") {
        true => forward_timesteps(file),
        false => reverse_timesteps(file),
    }
}

/// Refuses an alpha that is not a finite number.
pub(crate) fn finite_alpha(alpha: f64) -> Result<f64> {
    let reason = || format!("{alpha} is not a finite number");
    match alpha.is_finite() {
        true => Ok(alpha),
        false => Err(Error::of(Setting::AdapterAlpha, reason())),
    }
}

/// Alpha from the file's metadata: icd's own key, or the LoRA configuration
/// that diffusers writes.
fn stated_alpha(file: &Source) -> Result<Option<f64>> {
    let metadata = safetensors_metadata(file)?;
    let own = metadata.get(ALPHA).and_then(|alpha| alpha.parse().ok());
    Ok(own.or_else(|| diffusers_alpha(&metadata)))
}

fn diffusers_alpha(metadata: &Metadata) -> Option<f64> {
    let config: serde_json::Value = serde_json::from_str(metadata.get(DIFFUSERS_METADATA)?).ok()?;
    ["unet.lora_alpha", "lora_alpha"]
        .iter()
        .find_map(|key| config.get(key)?.as_f64())
}
