//! Layers, their operations, and the cursor that reads them from checkpoint files.
//!
//! This module is independent of diffusion. Pictures are (b, h, w, c), so that a pixel
//! is a row of every matrix product. The backend is chosen when a layer is read: see
//! [`ops`].

mod checkpointed;
mod conv;
mod layer_weight;
mod linear;
mod lora;
mod norm;
pub mod ops;
mod placement;
mod random_init;
mod shared_layers;
mod taken;
mod weights;

use candle_core::{Result, Tensor};

pub use checkpointed::{GradientSink, checkpointed};
pub use conv::{Conv2d, Stride};
pub use layer_weight::LayerWeight;
pub use linear::Linear;
pub use lora::{LoraDelta, LoraDeltas, sum_of};
pub use norm::{GroupNorm, LayerNorm};
pub use placement::{Backend, Placement, cuda_count, device_memory, open_cuda};
pub use random_init::RandomInit;
pub use shared_layers::SharedLayers;
pub use taken::Taken;
pub use weights::Weights;

pub use crate::kernel::{Activation, ConvEpilogue, Epilogue, GroupSums};

/// (b, c, h, w), the layout of latents and pictures outside of the networks, to
/// (b, h, w, c).
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// (b, h, w, c) to (b, c, h, w).
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}
