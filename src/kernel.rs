//! The CPU kernels of [`nn`](crate::nn), each tested against a plain implementation,
//! with gradients as required for training.
//!
//! ```text
//! linear  conv2d (patches, winograd)  attention          operations
//!    \____________|____________________/
//!        product, outer (packed)   bf16                   matrix products
//!  group and layer norm, activations, rearrangements, AdamW steps
//!        map, parts                                       elementwise formulas
//!        simd                                             vector instructions
//! op                                                      tensors and backward passes
//! ```
//!
//! Pictures are (b, h, w, c), sequences (b, n, c): a pixel is a row of a matrix, a
//! vector contains neighbouring channels, and the heads of an attention operation are
//! parts of a row. Vectors come from [`pulp`], and threads write to disjoint slices; only the
//! instructions for bf16 (`bf16::unit`), a hint (`prefetch`) and large buffers (`pages`, `reuse`)
//! are `unsafe`, in files of their own with safe faces. Results depend on the instruction set
//! (`ICD_SIMD` limits it), but not on the number of threads. With the feature `cuda`, the module
//! `cuda` has kernels for NVIDIA's GPUs, whose launches are `unsafe`.

#![allow(clippy::inline_always)] // Vectors remain in registers only if everything is inlined.
#![allow(clippy::needless_range_loop)] // The loops iterate over several slices of vectors.

mod adamw;
mod attention;
mod bf16;
mod conv;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod elementwise;
mod epilogue;
mod gemm;
mod group_norm;
mod layer_norm;
mod linear;
mod op;
#[cfg(test)]
mod oracle;
mod pages;
mod parts;
mod prefetch;
pub mod profile;
mod rearrange;
mod reuse;
mod scratch;
mod simd;
mod softmax;
mod stored;

pub use adamw::{AdamWStep, adamw, follow};
pub use attention::{
    attend, attend_causally, attend_through_first, attention_maps, attention_maps_in, read_maps,
    read_maps_in,
    rounded::{Sees, attend as attend_rounded},
};
#[cfg(test)]
pub(crate) use bf16::tests::units as bf16_units;
pub use bf16::{Arithmetic, MergedWeight, Unit, peak_flops};
pub use conv::patches::ConvGeometry;
pub(crate) use conv::patches::nearest;
pub use conv::{PackedConv, conv2d, conv2d_tracked, norm_silu_conv2d};
pub use elementwise::{Activation, activate, add, geglu};
pub use epilogue::{ConvEpilogue, Epilogue};
pub use group_norm::{GroupSums, Moments, group_norm, group_norm_by, group_sums};
pub use layer_norm::layer_norm;
pub use linear::{PackedLinear, feed_forward, linear, linear_geglu, linear_tracked};
pub use rearrange::{concat, enlarge};
pub use reuse::ReusingAllocator;
pub use simd::{check_instruction_set, instruction_set};
pub use stored::{StoredValues, add_product, convert, with_values};
