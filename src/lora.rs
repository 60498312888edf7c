//! Adapter files: three namings of the same low-rank changes.
//!
//! | naming | example |
//! |---|---|
//! | PEFT | `unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight` |
//! | diffusers | `unet.mid_block.resnets.0.conv1.lora_A.weight`, older `..lora.down.weight` |
//! | kohya | `lora_unet_mid_block_resnets_0_conv1.lora_down.weight`, with `.alpha` |
//!
//! A file may say in its metadata which path its model was distilled on
//! (`icd.path`) and its alpha (`icd.alpha`); the released files say the path in
//! their names only.

mod layers;
mod names;
mod naming;
mod trainable;
mod words;

use candle_core::{DType, Device, Tensor};

use crate::{
    error::{Error, Result},
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

/// Where an adapter file's metadata states its timesteps.
pub(crate) const TIMESTEPS: &str = "icd.path";
/// Where it states alpha.
pub(crate) const ALPHA: &str = "icd.alpha";
/// Where diffusers states how the adapter was made, in JSON.
pub(crate) const DIFFUSERS_METADATA: &str = "lora_adapter_metadata";

/// How an adapter file is to be understood where it does not say so itself.
#[derive(Clone, Copy, Debug)]
pub struct AdapterOptions {
    /// Alpha where the file states none; the scale is alpha / rank. Without one
    /// it is the rank: the factors are taken as they are.
    pub alpha: Option<f64>,
    /// The type the factors are rounded to before they are merged. The
    /// reference rounds those of SD1.5 to f16 and keeps those of SDXL.
    pub rounding: DType,
}

/// The low-rank changes of one adapter file.
#[derive(Clone, Debug)]
pub struct Adapter {
    changes: LoraDeltas,
}

impl Adapter {
    /// Reads the adapter in `file` for the network whose tensors are in
    /// `base`. Every tensor of the file must fit a layer there.
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

    /// Reads what a file that is for several networks holds for this one, whose
    /// tensors are in `base`; it may be nothing.
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

    /// The changes by module path.
    pub fn deltas(&self) -> &LoraDeltas {
        &self.changes
    }
}

/// The timesteps that an adapter file gives in its metadata or its name. The
/// released names leave out the last one, which all of a direction share.
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

/// The forward timesteps that an adapter file states, if it does: climbing, and
/// ending at 999 (the released names leave the 999 out).
pub fn forward_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let ended = |mut timesteps: Vec<u16>| {
        timesteps.sort_unstable();
        ended_at(999, timesteps, file, Timesteps::forward)
    };
    stated_timesteps(file)?.map(ended).transpose()
}

/// The reverse timesteps that an adapter file states, if it does: descending, and
/// ending at 0 (the released names climb and leave the 0 out).
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

/// The timesteps in an adapter file's metadata, else those of the direction that
/// its name states.
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

/// Alpha as the file's metadata says it: our own note, or the LoRA
/// configuration that diffusers writes.
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
