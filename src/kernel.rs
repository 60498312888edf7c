//! CPU kernels behind [`nn`](crate::nn), each tested against a plain form of
//! the same formula, with gradients where training needs them.
//!
//! ```text
//! linear  conv2d (patches, winograd)  attention          the operations
//!    \____________|____________________/
//!        product, outer (packed)                          sums of products
//!  group and layer norm, activations, rearrangements, a step of AdamW
//!        map, parts                                       a formula for every value
//!        simd                                             the widest vectors there are
//! op                                                      tensors, and the way back
//! ```
//!
//! Pictures are (b, h, w, c), sequences (b, n, c): channels lie side by side, so
//! that a pixel is a row of a matrix, a vector holds neighbouring channels, and
//! the heads of an attention are stretches of a row. No kernel is `unsafe`:
//! vectors come from [`pulp`], and threads share outputs out as disjoint slices.
//! What a kernel computes depends on the instruction set (`ICD_SIMD` limits it)
//! but not on the number of threads.

#![allow(clippy::inline_always)] // Vectors stay in registers only where everything is inlined.
#![allow(clippy::needless_range_loop)] // Several slices of vectors are walked together.

mod adamw;
mod attention;
mod conv;
mod curve;
mod linear;
mod map;
mod norm;
mod op;
#[cfg(test)]
mod oracle;
mod outer;
mod packed;
mod parts;
mod patches;
mod pointwise;
mod product;
pub mod profile;
mod rearrange;
mod scratch;
mod simd;
mod softmax;
mod total;
mod winograd;

pub use adamw::{AdamWStep, adamw, follow};
pub use attention::{attend, attend_causally, attend_through_first, attention_maps, read_maps};
pub use conv::{Around, Filters, conv2d, conv2d_tracked};
pub use linear::{Dense, add_product, linear, linear_geglu, linear_tracked};
pub use norm::{GroupSums, Moments, Then, group_norm, group_norm_by, group_sums, layer_norm};
pub use patches::Window;
pub(crate) use patches::nearest;
pub use pointwise::{add, geglu, gelu, quick_gelu, silu};
pub use rearrange::{concat, enlarge};
pub use softmax::softmax;
