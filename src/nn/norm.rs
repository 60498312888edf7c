//! Normalisations.

use candle_core::{D, DType, Result, Tensor, bail};

use super::{on_cpu, silu};
use crate::kernel::{self, GroupSums, Then, profile};

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

    /// What the norm has to know of x (b, .., c), pictures or the same part of
    /// each: the sums over all parts tell [`forward_silu_by`](Self::forward_silu_by)
    /// what the whole pictures tell [`forward_silu`](Self::forward_silu).
    pub fn sums(&self, x: &Tensor) -> Result<GroupSums> {
        match on_cpu(x) {
            true => kernel::group_sums(&x.contiguous()?, self.groups),
            false => self.composed_sums(x),
        }
    }

    /// Normalises a part x (b, .., c) of pictures by the sums over the whole
    /// ones, and applies SiLU. There is no gradient.
    pub fn forward_silu_by(&self, sums: &GroupSums, x: &Tensor) -> Result<Tensor> {
        if x.track_op() {
            bail!("no gradient flows through a group norm by given sums");
        }
        if !on_cpu(x) {
            return silu(&self.composed_by(sums, x)?);
        }
        let (x, affine) = (x.contiguous()?, [&self.weight, &self.bias]);
        profile::of(
            |_| ("group norm".into(), 0.0),
            || kernel::group_norm_by(sums, &x, affine, self.eps, Then::Silu),
        )
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
        let grouped = self.grouped(x)?;
        let mean = grouped.mean_keepdim((1, 3))?;
        let centred = grouped.broadcast_sub(&mean)?;
        let variance = centred.sqr()?.mean_keepdim((1, 3))?;
        let y = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        self.scaled(&y, x)
    }

    /// [`sums`](Self::sums) from candle's operations.
    fn composed_sums(&self, x: &Tensor) -> Result<GroupSums> {
        let grouped = self.grouped(x)?;
        let count = grouped.dim(1)? * grouped.dim(3)?;
        let mean = grouped.mean_keepdim((1, 3))?;
        let squares = grouped.broadcast_sub(&mean)?.sqr()?.mean_keepdim((1, 3))?;
        let [mean, squares] = [mean, squares].map(|x| x.flatten_all()?.to_vec1::<f32>());
        let sums = mean?.into_iter().zip(squares?).map(|(mean, square)| {
            let [mean, square] = [mean, square].map(f64::from);
            [mean, square + mean * mean].map(|mean| mean * count as f64)
        });
        Ok(GroupSums::new(count, self.groups, sums.collect()))
    }

    /// Normalisation by given sums from candle's operations.
    fn composed_by(&self, sums: &GroupSums, x: &Tensor) -> Result<Tensor> {
        let moments = sums.moments(self.eps);
        let by_group = |values: Vec<f32>| {
            Tensor::from_vec(values, (sums.pictures(), 1, self.groups, 1), x.device())
        };
        let mean = by_group(moments.iter().map(|of| of.mean as f32).collect())?;
        let inverse = by_group(moments.iter().map(|of| of.inverse as f32).collect())?;
        let y = self.grouped(x)?.broadcast_sub(&mean)?;
        self.scaled(&y.broadcast_mul(&inverse)?, x)
    }

    /// x (b, .., c) by groups in f32: (b, n, groups, c / groups).
    fn grouped(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
        let x = x.to_dtype(DType::F32)?;
        x.reshape((b, (), self.groups, c / self.groups))
    }

    /// Normalised groups in the shape and type of x, scaled and shifted.
    fn scaled(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
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

    #[test]
    fn parts_are_normalised_as_the_whole_by_the_sums_over_all() {
        let values = (0..2 * 7 * 5 * 6).map(|i| 9.0 + (i as f32 * 0.7).sin() * (i % 11) as f32);
        let x = Tensor::from_vec(values.collect(), (2, 7, 5, 6), &Device::Cpu).unwrap();
        let weight = Tensor::new(&[1f32, 2., 1., 3., 1., -1.], x.device()).unwrap();
        let norm = GroupNorm::new(weight.clone(), weight, 3, 1e-6).unwrap();
        let whole = norm.forward_silu(&x).unwrap();
        let (top, bottom) = (x.narrow(1, 0, 2).unwrap(), x.narrow(1, 2, 5).unwrap());
        let ways = [GroupNorm::sums, GroupNorm::composed_sums];
        for sums in ways.map(|sums| [&top, &bottom].map(|x| sums(&norm, x).unwrap())) {
            let [sums, rest] = sums;
            let sums = sums.and(&rest);
            for (part, first) in [(&top, 0), (&bottom, 2)] {
                let whole = whole.narrow(1, first, part.dims()[1]).unwrap();
                let whole = whole.flatten_all().unwrap().to_vec1().unwrap();
                assert!(close(&norm.forward_silu_by(&sums, part).unwrap(), &whole));
                let composed = norm.composed_by(&sums, part).unwrap();
                assert!(close(&silu(&composed).unwrap(), &whole));
            }
        }
    }
}
