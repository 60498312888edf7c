//! What tells Stable Diffusion 1.5 from SDXL: values, not code.

use std::fmt;

use candle_core::DType;

use super::{clip::ClipConfig, unet::UnetConfig};
use crate::error::{Error, Result};

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.5: one text encoder.
    Sd15,
    /// Stable Diffusion XL: two text encoders and added conditioning.
    Sdxl,
}

/// How a picture's latent is drawn from the encoder's distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Its mean.
    Mean,
    /// A sample, made with the first draw of the seed.
    Sample,
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

    /// How the reference inverts pictures of this family.
    pub fn draw(self) -> Draw {
        match self {
            Self::Sd15 => Draw::Mean,
            Self::Sdxl => Draw::Sample,
        }
    }

    /// The type that the reference rounds adapters to before it merges them.
    pub(super) fn adapter_rounding(self) -> DType {
        match self {
            Self::Sd15 => DType::F16,
            Self::Sdxl => DType::F32,
        }
    }

    /// The UNet's measures where no config.json tells them.
    pub(super) fn unet_config(self) -> UnetConfig {
        match self {
            Self::Sd15 => UnetConfig::sd15(),
            Self::Sdxl => UnetConfig::sdxl(),
        }
    }

    /// The text encoders: tokenizer folder, encoder folder, measures where no
    /// config.json tells them.
    pub(super) fn text_encoders(self) -> Vec<(&'static str, &'static str, ClipConfig)> {
        let first = ("tokenizer", "text_encoder", ClipConfig::vit_l());
        match self {
            Self::Sd15 => vec![first],
            Self::Sdxl => vec![
                first,
                ("tokenizer_2", "text_encoder_2", ClipConfig::vit_big_g()),
            ],
        }
    }

    /// The guidance an edit uses where none is asked for.
    pub fn edit_guidance(self) -> f64 {
        match self {
            Self::Sd15 => 19.0,
            Self::Sdxl => 7.0,
        }
    }

    /// Whether edits use prompt-to-prompt where nothing is asked for; the
    /// reference's SDXL keeps the source by its early prompt instead.
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
