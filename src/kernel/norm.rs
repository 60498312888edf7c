//! Normalisation of values whose channels lie side by side.

mod group;
mod layer;

pub use group::{Then, group_norm};
pub use layer::layer_norm;
