//! The measures of autoencoders.

use crate::model::stage::Norm;

/// The measures of an autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of each level, finest first; the picture is halved between them.
    pub channels: Vec<usize>,
    /// Residual blocks per level on the way in; one more on the way out.
    pub blocks: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// What latents are multiplied with.
    pub scale: f64,
    /// Whether the middle attends.
    pub middle_attention: bool,
}

impl VaeConfig {
    /// Stable Diffusion 1.5.
    pub fn sd15() -> Self {
        Self {
            channels: vec![128, 256, 512, 512],
            blocks: 2,
            latent_channels: 4,
            groups: 32,
            scale: 0.18215,
            middle_attention: true,
        }
    }

    /// Stable Diffusion XL.
    pub fn sdxl() -> Self {
        Self {
            scale: 0.13025,
            ..Self::sd15()
        }
    }

    /// Pixels along one side of a latent's value.
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }

    /// The norms of its residual blocks.
    pub(super) fn norm(&self) -> Norm {
        Norm {
            groups: self.groups,
            eps: 1e-6,
        }
    }

    /// Channels at the picture's own size: what the blocks make there, and the
    /// most that there are, on the way out before the first of them.
    pub(super) fn finest(&self) -> [usize; 2] {
        let channels = |level: usize| self.channels.get(level).copied().unwrap_or_default();
        [channels(0), channels(0).max(channels(1))]
    }
}
