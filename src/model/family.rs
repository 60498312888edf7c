//! The differences between Stable Diffusion 1.5 and SDXL, as values.

use std::fmt;

use candle_core::DType;

use super::{clip::ClipConfig, unet::UnetConfig};
use crate::{
    error::{Error, Result},
    kernel::Arithmetic,
    nn::Placement,
};

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.5: one text encoder.
    Sd15,
    /// Stable Diffusion XL: two text encoders and added conditioning.
    Sdxl,
}

/// How a picture's latent is taken from the encoder's distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentSampling {
    /// Its mean.
    Mode,
    /// A sample, with the first noise drawn from the seed.
    Sample,
}

/// The location of a text encoder in a model folder.
#[derive(Clone, Debug)]
pub(super) struct TextEncoder {
    /// The folder of its tokenizer.
    pub(super) tokenizer: &'static str,
    /// The folder of its weights.
    pub(super) folder: &'static str,
    /// Its default configuration, without a config.json.
    pub(super) config: ClipConfig,
}

impl Family {
    /// The family of the diffusers pipeline class in a model_index.json.
    pub(super) fn of_pipeline(class: &str) -> Result<Self> {
        match class {
            name if name.starts_with("StableDiffusionXL") => Ok(Self::Sdxl),
            name if name.starts_with("StableDiffusion")
                && !name.starts_with("StableDiffusion3") =>
            {
                Ok(Self::Sd15)
            }
            name => Err(Error::setting(format!(
                "pipeline {name}: only Stable Diffusion 1.x, 2.x and XL models are supported"
            ))),
        }
    }

    /// How the reference takes the latent of a picture to invert.
    pub fn latent_sampling(self) -> LatentSampling {
        match self {
            Self::Sd15 => LatentSampling::Mode,
            Self::Sdxl => LatentSampling::Sample,
        }
    }

    /// The type of the autoencoder's weights: f32 on a CPU that computes in it, and where
    /// SDXL's would overflow, in f16; else that of the other networks.
    pub fn vae_dtype(self, placement: &Placement) -> DType {
        let overflows = self == Self::Sdxl && placement.dtype == DType::F16;
        let exact = placement.device.is_cpu() && placement.arithmetic() == Arithmetic::F32;
        match exact || overflows {
            true => DType::F32,
            false => placement.dtype,
        }
    }

    /// The dtype to which the reference casts adapters before merging.
    pub(super) fn adapter_rounding(self) -> DType {
        match self {
            Self::Sd15 => DType::F16,
            Self::Sdxl => DType::F32,
        }
    }

    /// The default configuration of the UNet, without a config.json.
    pub(super) fn unet_config(self) -> UnetConfig {
        match self {
            Self::Sd15 => UnetConfig::sd15(),
            Self::Sdxl => UnetConfig::sdxl(),
        }
    }

    /// The text encoders in order.
    pub(super) fn text_encoders(self) -> Vec<TextEncoder> {
        let first = TextEncoder {
            tokenizer: "tokenizer",
            folder: "text_encoder",
            config: ClipConfig::vit_l(),
        };
        let second = TextEncoder {
            tokenizer: "tokenizer_2",
            folder: "text_encoder_2",
            config: ClipConfig::vit_big_g(),
        };
        match self {
            Self::Sd15 => vec![first],
            Self::Sdxl => vec![first, second],
        }
    }

    /// The default guidance of edits.
    pub fn edit_guidance(self) -> f64 {
        match self {
            Self::Sd15 => 19.0,
            Self::Sdxl => 7.0,
        }
    }

    /// Whether edits use prompt-to-prompt by default; the reference's SDXL preserves
    /// the source with an early prompt instead.
    pub fn edits_by_attention(self) -> bool {
        self == Self::Sd15
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sd15 => "sd15",
            Self::Sdxl => "sdxl",
        })
    }
}
