//! CPU kernels behind [`nn`](crate::nn), each tested against a plain form of
//! the same formula. `unsafe` stays in this module, each block with its reason.

mod conv;
mod group_norm;

use candle_core::{CpuStorage, Layout, Result, bail};

pub use conv::{Window, conv2d};
pub use group_norm::group_norm;

/// The values of a contiguous f32 tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a kernel wants contiguous values"),
    }
}
