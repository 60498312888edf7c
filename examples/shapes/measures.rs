//! The measures of the model's networks.

use icd::model::{
    clip::{Activation, ClipConfig},
    unet::{Level, UnetConfig},
    vae::VaeConfig,
};

/// Tokens of a caption, the start and end tokens among them.
pub(crate) const CONTEXT: usize = 32;
/// Width of the text states.
pub(crate) const TEXT: usize = 64;

/// The autoencoder: 64x64 pixels to latents (4, 16, 16).
pub(crate) fn vae(scale: f64) -> VaeConfig {
    VaeConfig {
        channels: vec![16, 32, 64],
        blocks: 1,
        latent_channels: 4,
        groups: 8,
        scale,
        middle_attention: false,
    }
}

/// The text encoder, for a vocabulary of so many tokens.
pub(crate) fn text(vocabulary: usize) -> ClipConfig {
    ClipConfig {
        vocabulary,
        context: CONTEXT,
        width: TEXT,
        inner: 4 * TEXT,
        layers: 3,
        heads: 4,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        projection: None,
    }
}

/// The UNet: two levels, both with attention to the text.
pub(crate) fn unet() -> UnetConfig {
    let level = |channels| Level {
        channels,
        heads: 4,
        depth: 1,
        depth_up: 1,
        blocks: 2,
    };
    UnetConfig {
        levels: vec![level(32), level(64)],
        middle_depth: 1,
        text_width: TEXT,
        groups: 8,
        side: 16,
        ..UnetConfig::sd15()
    }
}
