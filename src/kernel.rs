//! CPU kernels behind [`nn`](crate::nn), each tested against a plain form of
//! the same formula. `unsafe` stays in this module, each block with its reason.

#![allow(clippy::inline_always)] // Vectors stay in registers only where everything is inlined.

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
mod simd;
mod softmax;
mod total;
mod winograd;

pub use attention::{attend, attend_causally, attend_through_first, attention_maps, read_maps};
pub use conv::{Around, Filters, conv2d, conv2d_tracked};
pub use linear::{Dense, linear, linear_geglu, linear_tracked};
pub use norm::{Then, group_norm, layer_norm};
pub use patches::Window;
pub(crate) use patches::nearest;
pub use pointwise::{add, geglu, gelu, quick_gelu, silu};
pub use rearrange::{concat, enlarge};
pub use softmax::softmax;
