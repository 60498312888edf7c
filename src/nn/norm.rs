//! Normalisations.

use candle_core::{D, DType, Result, Tensor};

use super::{on_cpu, silu};
use crate::kernel::{self, Then, profile};

/// Normalises groups of channels over the whole picture (arXiv 1803.08494).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Scale and shift of shape (c); c is a multiple of `groups`.
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: weight.to_dtype(DType::F32)?,
            bias: bias.to_dtype(DType::F32)?,
            groups,
            eps,
        })
    }

    /// Normalises (b, .., c); statistics are taken in f32 or better.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match on_cpu(x) {
            true => self.fused(x, Then::Nothing),
            false => self.composed(x),
        }
    }

    /// Normalises (b, .., c) and applies SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        match on_cpu(x) {
            true => self.fused(x, Then::Silu),
            false => silu(&self.composed(x)?),
        }
    }

    fn fused(&self, x: &Tensor, then: Then) -> Result<Tensor> {
        let x = x.contiguous()?;
        profile::of(
            |_| ("group norm".into(), 0.0),
            || kernel::group_norm(&x, &self.weight, &self.bias, self.groups, self.eps, then),
        )
    }

    /// The same from candle's operations, on every device.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
        let grouped = x.to_dtype(DType::F32)?;
        let grouped = grouped.reshape((b, (), self.groups, c / self.groups))?; // (b, n, groups, c / groups)
        let mean = grouped.mean_keepdim((1, 3))?;
        let centred = grouped.broadcast_sub(&mean)?;
        let variance = centred.sqr()?.mean_keepdim((1, 3))?;
        let y = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        y.reshape(x.shape())?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?
            .to_dtype(x.dtype())
    }
}

/// Normalises the last axis (arXiv 1607.06450).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Scale and shift of shape (c).
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: weight.to_dtype(DType::F32)?,
            bias: bias.to_dtype(DType::F32)?,
            eps,
        })
    }

    /// Normalises (.., c); statistics are taken in f32 or better.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match on_cpu(x) {
            true => profile::of(
                |_| ("layer norm".into(), 0.0),
                || kernel::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps),
            ),
            false => self.composed(x),
        }
    }

    /// The same from candle's operations, on every device.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.to_dtype(DType::F32)?;
        let centred = y.broadcast_sub(&y.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?
            .to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn close(a: &Tensor, b: &[f32]) -> bool {
        let a = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn layer_norm_is_the_same_in_both_ways() {
        let x = Tensor::new(&[[1f32, 2., 4., 8.]], &Device::Cpu).unwrap();
        let ones = Tensor::new(&[1f32, 2., 1., 1.], &Device::Cpu).unwrap();
        let norm = LayerNorm::new(ones.clone(), ones, 1e-5).unwrap();
        // torch.nn.functional.layer_norm(x, (4,), w, w), w = [1, 2, 1, 1]
        let expected = [-0.025_754_57, 0.694_494_1, 1.093_250_4, 2.585_257];
        assert!(close(&norm.forward(&x).unwrap(), &expected));
        assert!(close(&norm.composed(&x).unwrap(), &expected));
    }

    #[test]
    fn group_norm_standardises_each_group() {
        // (1, 1, 2, 4): two pixels of four channels
        let x = [[[[1f32, 5., -2., 0.], [3., 7., 2., 0.]]]];
        let x = Tensor::new(&x, &Device::Cpu).unwrap();
        let one = Tensor::ones(4, DType::F32, x.device()).unwrap();
        let zero = one.zeros_like().unwrap();
        let norm = GroupNorm::new(one, zero, 2, 0.0).unwrap();
        // torch.nn.functional.group_norm(x.permute(0, 3, 1, 2), 2, eps=0).permute(0, 2, 3, 1)
        let (r5, r2) = (5f32.sqrt(), 2f32.sqrt());
        let expected = [-3. / r5, 1. / r5, -r2, 0., -1. / r5, 3. / r5, r2, 0.];
        assert!(close(&norm.forward(&x).unwrap(), &expected));
        assert!(close(&norm.composed(&x).unwrap(), &expected));
        let silu = expected.map(|y| y / (1.0 + (-y).exp()));
        assert!(close(&norm.forward_silu(&x).unwrap(), &silu));
    }
}
