//! Layers, and the cursor that reads them from checkpoint files.
//!
//! Nothing here knows of diffusion. Weights keep the type they are stored in
//! and are cast to the activations' type where they are used, so half-precision
//! weights halve the memory while the arithmetic stays in f32 on a CPU.

mod attend;
mod checkpoint;
mod conv;
mod linear;
mod lowrank;
mod norm;
mod weights;

pub use attend::{attend, attention_maps};
pub use checkpoint::Checkpoint;
pub(crate) use checkpoint::metadata as checkpoint_metadata;
pub use conv::{Conv2d, Stride, upsample_nearest};
pub use linear::Linear;
pub use lowrank::{LowRank, LowRanks};
pub use norm::{GroupNorm, LayerNorm, softmax};
pub use weights::{Storage, Weights};
