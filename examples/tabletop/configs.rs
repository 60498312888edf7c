//! The configs of the model's networks.

use icd::{
    model::{
        clip::ClipConfig,
        unet::{Level, UnetConfig},
        vae::VaeConfig,
    },
    nn::Activation,
};

/// Tokens of a caption, the start and end tokens among them.
pub(crate) const CONTEXT: usize = 48;
/// Width of the text states.
pub(crate) const TEXT: usize = 96;
/// The shape (c, h, w) of latents.
pub(crate) const LATENT: (usize, usize, usize) = (4, 16, 16);

/// The autoencoder: 128x128 pixels to latents (4, 16, 16).
pub(crate) fn vae(scale: f64) -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![16, 32, 64, 96],
        layers_per_block: 1,
        latent_channels: 4,
        norm_num_groups: 8,
        scaling_factor: scale,
        mid_block_add_attention: false,
        use_quant_conv: false,
        use_post_quant_conv: false,
    }
}

/// The text encoder, for a vocabulary of so many tokens.
pub(crate) fn text(vocabulary: usize) -> ClipConfig {
    ClipConfig {
        vocab_size: vocabulary,
        max_position_embeddings: CONTEXT,
        hidden_size: TEXT,
        intermediate_size: 4 * TEXT,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        projection_dim: None,
    }
}

/// The UNet: two levels, both with attention to the text.
pub(crate) fn unet() -> UnetConfig {
    let level = |channels| Level {
        channels,
        heads: 4,
        transformer_layers: 1,
        transformer_layers_up: 1,
        blocks: 2,
    };
    UnetConfig {
        levels: vec![level(64), level(96)],
        mid_transformer_layers: 1,
        cross_attention_dim: TEXT,
        norm_num_groups: 8,
        sample_size: 16,
        ..UnetConfig::sd15()
    }
}
