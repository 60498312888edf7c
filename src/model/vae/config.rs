//! The configuration of autoencoders.

use serde::Deserialize;

use crate::model::resnet::Norm;

/// The configuration of an autoencoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VaeConfig {
    /// Channels of each level, finest first; each level halves the resolution.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// The factor that latents are multiplied by; early files omit it.
    #[serde(default = "sd15_scale")]
    pub scaling_factor: f64,
    /// Whether the middle block has attention.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Whether a convolution follows the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a convolution precedes the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
}

fn sd15_scale() -> f64 {
    VaeConfig::sd15().scaling_factor
}

fn yes() -> bool {
    true
}

impl VaeConfig {
    /// Stable Diffusion 1.5.
    pub fn sd15() -> Self {
        Self {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
        }
    }

    /// Stable Diffusion XL.
    pub fn sdxl() -> Self {
        Self {
            scaling_factor: 0.13025,
            ..Self::sd15()
        }
    }

    /// Channels of the finest and the coarsest level.
    pub(super) fn ends(&self) -> (usize, usize) {
        let (first, last) = (
            self.block_out_channels.first(),
            self.block_out_channels.last(),
        );
        let channels = |level: Option<&usize>| level.copied().unwrap_or_default();
        (channels(first), channels(last))
    }

    /// Downsampling factor: pixels per latent value along each axis.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// The norms of its residual blocks.
    pub(super) fn norm(&self) -> Norm {
        Norm {
            groups: self.norm_num_groups,
            eps: 1e-6,
        }
    }

    /// Channels at full resolution: of a block's output, and the maximum, which the
    /// decoder has before its first block there.
    pub(crate) fn finest(&self) -> [usize; 2] {
        let channels = |level: usize| {
            self.block_out_channels
                .get(level)
                .copied()
                .unwrap_or_default()
        };
        [channels(0), channels(0).max(channels(1))]
    }
}
