//! Adapter files: LoRA weights, and their relatives LoHa, LoKr and DoRA, in three naming
//! conventions.
//!
//! | convention | example |
//! |---|---|
//! | PEFT | `unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight` |
//! | diffusers | `unet.mid_block.resnets.0.conv1.lora_A.weight`, older `..lora.down.weight` |
//! | kohya | `lora_unet_mid_block_resnets_0_conv1.lora_down.weight`, with `.alpha` |
//!
//! The scale of a layer is alpha / rank. Alpha is that of its alpha tensor, else that of
//! PEFT's configuration beside the file, else of the one in its metadata, else `icd.alpha`
//! there, else the one that the user sets, else a default.
//!
//! A file's metadata may state the timesteps its model was distilled on (`icd.path`); the
//! released files state them in their names only.

mod deltas;
mod factor;
mod file;
mod foreign;
mod layers;
mod names;
mod naming;
mod pattern;
mod product;
mod scale;
mod settings;
mod summary;
mod timesteps;
mod trainable;
mod weighted;
mod words;

use candle_core::DType;

use crate::{
    error::{Error, Result, Setting},
    io::{Checkpoint, Source},
    layout::Network,
    nn::LoraDeltas,
};

pub(crate) use factor::Factor;
pub(crate) use file::{AdapterFile, is_adapter};
pub(crate) use layers::Layer;
pub use naming::Naming;
pub(crate) use scale::{CONFIG, config_beside};
pub use summary::Summary;
pub use timesteps::{Direction, forward_timesteps, reverse_timesteps, timesteps};
pub use trainable::{LoraConfig, TARGET_MODULES, TrainableAdapter};
pub use weighted::WeightedLora;

/// The metadata key of an adapter file's timesteps.
pub(crate) const TIMESTEPS: &str = "icd.path";
/// The metadata key of its alpha.
pub(crate) const ALPHA: &str = "icd.alpha";
/// The metadata key under which diffusers stores the LoRA configuration, in JSON.
pub(crate) const DIFFUSERS_METADATA: &str = "lora_adapter_metadata";
/// Alpha of the released adapters, which do not state it: PEFT's default.
pub(crate) const RELEASED_ALPHA: f64 = 8.0;

/// How to interpret an adapter file.
#[derive(Clone, Copy, Debug)]
pub struct AdapterOptions {
    /// Alpha for files that state none; the scale is alpha / rank. With `None` it is 8 for
    /// files with PEFT's names or stated timesteps, else the rank.
    pub alpha: Option<f64>,
    /// What the scale of each layer is multiplied by, as in PEFT's `set_scale`: with DoRA,
    /// before the magnitudes are taken.
    pub weight: f64,
    /// The dtype the factors are rounded to before merging. The reference
    /// rounds those of SD1.5 to f16 and leaves those of SDXL unrounded.
    pub rounding: DType,
}

/// The weight deltas of one adapter file.
#[derive(Clone, Debug)]
pub struct Adapter {
    changes: LoraDeltas,
    notes: Vec<String>,
}

impl Adapter {
    /// Reads the adapter in `file` for the UNet whose tensors are in `base`. Every tensor
    /// of the file must match a layer of `base` or be for another network, and one at least
    /// must match.
    pub fn read(
        file: impl Into<Source>,
        base: &Checkpoint,
        options: AdapterOptions,
    ) -> Result<Self> {
        let file = AdapterFile::open(&file.into(), options.alpha)?;
        let networks = [(Network::Unet, base)];
        let placed = file.placed(&networks)?;
        Ok(Self {
            changes: placed.deltas(Network::Unet, options.weight, options.rounding)?,
            notes: placed.notes()?,
        })
    }

    /// The deltas by module path.
    pub fn deltas(&self) -> &LoraDeltas {
        &self.changes
    }

    /// What a user should know: a scale that is not stated, and tensors that are left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
