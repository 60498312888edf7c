//! Activations, sums, and what lies side by side.

use candle_core::{D, Result, Tensor};

use super::on_cpu;
use crate::kernel::{self, profile};

/// x sigmoid(x) (arXiv 1702.03118).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    match on_cpu(x) {
        true => kernel::silu(&x.contiguous()?),
        false => x.silu(),
    }
}

/// The exact Gaussian error linear unit (arXiv 1606.08415).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    match on_cpu(x) {
        true => kernel::gelu(&x.contiguous()?),
        false => x.gelu_erf(),
    }
}

/// x sigmoid(1.702 x), CLIP's quick approximation of [`gelu`].
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    match on_cpu(x) {
        true => kernel::quick_gelu(&x.contiguous()?),
        false => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
    }
}

/// The first half of (.., 2 c) times the exact GELU of the second: (.., c)
/// (arXiv 2002.05202).
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    if on_cpu(x) {
        let about = |_: &Tensor| ("geglu".into(), 0.0);
        return profile::of(about, || kernel::geglu(&x.contiguous()?));
    }
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * halves[1].gelu_erf()?
}

/// (.., a) and (.., b) side by side: (.., a + b).
pub fn concat(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match on_cpu(a) {
        true => profile::of(
            |_| ("concat".into(), 0.0),
            || kernel::concat(&a.contiguous()?, &b.contiguous()?),
        ),
        false => Tensor::cat(&[a, b], D::Minus1),
    }
}

/// The sum of two tensors of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match on_cpu(a) {
        true => kernel::add(&a.contiguous()?, &b.contiguous()?),
        false => a + b,
    }
}
