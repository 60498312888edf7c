//! CUDA kernels of the layers, in f16 and bf16 with sums in f32; norms also in f32.
//!
//! Every function returns `None` for what no kernel takes: tensors on another device or on a
//! GPU older than compute capability 8.0, other types, tracked tensors, and the sizes that
//! its documentation names. Nothing waits for the GPU, and nothing is copied from the host.
//!
//! The sources are `cuda/*.cu`, which the build script compiles. They are also tested
//! without a GPU: `tests/cuda` emulates their instructions.

#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod gpu;
mod heads;
#[cfg(feature = "cuda")]
mod norm;
#[cfg(feature = "cuda")]
mod operand;
#[cfg(feature = "cuda")]
mod product;
mod slices;
mod tiles;

#[cfg(feature = "cuda")]
pub use attention::{attend, attend_causally, attend_through_first, attention_maps};
#[cfg(feature = "cuda")]
pub use device::{count, is_supported, memory, open};
#[cfg(feature = "cuda")]
pub use norm::{group_norm, layer_norm};
#[cfg(feature = "cuda")]
pub use product::{conv2d, linear, linear_geglu};
