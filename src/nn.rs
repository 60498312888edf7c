//! Layers, and the cursor that reads them from checkpoint files.
//!
//! Nothing here knows of diffusion. Pictures are (b, h, w, c): their channels
//! lie side by side, so that a pixel is a row of every matrix product. On a CPU
//! the arithmetic is that of [`kernel`](crate::kernel), in f32 whatever type the
//! weights are stored in; elsewhere it is composed of candle's operations.

mod attend;
mod checkpoint;
mod conv;
mod fresh;
mod linear;
mod lowrank;
mod norm;
mod pointwise;
mod recompute;
mod shelf;
mod weights;

use candle_core::{DType, Result, Tensor};

pub use attend::{attend, attend_causally, attend_through_first, attention_maps, read_maps};
pub use checkpoint::metadata as checkpoint_metadata;
pub(crate) use checkpoint::shard_names;
pub use checkpoint::{Checkpoint, View};
pub use conv::{Conv2d, Extras, Stride, upsample_nearest};
pub use fresh::Fresh;
pub use linear::Linear;
pub use lowrank::{LowRank, LowRanks, stacked};
pub use norm::{GroupNorm, LayerNorm};
pub use pointwise::{add, concat, geglu, gelu, quick_gelu, silu};
pub use recompute::{Aside, recomputed};
pub use shelf::Shelf;
pub use weights::{Storage, Weights};

/// Whether our kernels take x.
fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// (b, c, h, w), as latents and pictures are outside of the networks, to (b, h, w, c).
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// (b, h, w, c) to (b, c, h, w).
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}
