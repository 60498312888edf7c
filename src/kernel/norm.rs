//! Normalisation of values whose channels lie side by side.

mod group;
mod layer;

pub use group::{GroupSums, Moments, Then, group_norm, group_norm_by, group_sums};
pub use layer::layer_norm;
