//! Normalisations and the softmax.
//!
//! candle's fused softmax and layer norm have no backward pass and drop
//! gradients silently, so a tracked input takes the composed form instead.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops;

use crate::kernel;

/// Softmax over the last axis.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    match x.track_op() {
        true => ops::softmax(x, D::Minus1),
        false => ops::softmax_last_dim(&x.contiguous()?),
    }
}

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
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Self {
        Self {
            weight,
            bias,
            groups,
            eps,
        }
    }

    /// Normalises (b, c, ..); statistics are taken in f32 or better.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let (weight, bias) = (
            self.weight.to_dtype(DType::F32)?,
            self.bias.to_dtype(DType::F32)?,
        );
        match x.track_op() || weight.track_op() || !x.device().is_cpu() {
            true => self.composed(&x, &weight, &bias)?,
            false => kernel::group_norm(&x, &weight, &bias, self.groups, self.eps)?,
        }
        .to_dtype(dtype)
    }

    /// The same from differentiable operations, on any device.
    fn composed(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let grouped = x.reshape((x.dim(0)?, self.groups, ()))?; // (b, groups, c / groups * ..)
        let y = standardise(&grouped, self.eps)?.reshape(x.shape())?;
        let mut per_channel = vec![1; x.rank()];
        per_channel[1] = x.dim(1)?;
        let weight = weight.reshape(per_channel.as_slice())?;
        y.broadcast_mul(&weight)?
            .broadcast_add(&bias.reshape(per_channel.as_slice())?)
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
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// Normalises (.., c).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.to_dtype(x.dtype())?;
        let bias = self.bias.to_dtype(x.dtype())?;
        match x.track_op() || weight.track_op() {
            true => standardise(x, self.eps)?
                .broadcast_mul(&weight)?
                .broadcast_add(&bias),
            false => ops::layer_norm(&x.contiguous()?, &weight, &bias, self.eps as f32),
        }
    }
}

/// Zero mean and unit variance over the last axis.
fn standardise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn close(a: &Tensor, b: &[f32]) -> bool {
        let a = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    fn ramp() -> Tensor {
        Tensor::new(&[[1f32, 2., 4., 8.]], &Device::Cpu).unwrap()
    }

    #[test]
    fn layer_norm_is_the_same_with_and_without_gradients() {
        let ones = Tensor::new(&[1f32, 2., 1., 1.], &Device::Cpu).unwrap();
        let norm = LayerNorm::new(ones.clone(), ones, 1e-5);
        // torch.nn.functional.layer_norm(x, (4,), w, w), w = [1, 2, 1, 1]
        let expected = [-0.025_754_57, 0.694_494_1, 1.093_250_4, 2.585_257];
        let tracked = Var::from_tensor(&ramp()).unwrap();
        assert!(close(&norm.forward(&ramp()).unwrap(), &expected));
        assert!(close(
            &norm.forward(tracked.as_tensor()).unwrap(),
            &expected
        ));
    }

    #[test]
    fn softmax_passes_gradients() {
        let x = Var::from_tensor(&ramp()).unwrap();
        let loss = softmax(x.as_tensor())
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(&x).expect("softmax keeps the gradient");
        assert!(
            gradient
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                > 1e-3
        );
    }

    #[test]
    fn group_norm_standardises_each_group() {
        let x = Tensor::new(
            &[[[[1f32, 3.]], [[5., 7.]], [[-2., 2.]], [[0., 0.]]]],
            &Device::Cpu,
        )
        .unwrap();
        let (one, zero) = (
            Tensor::ones(4, DType::F32, x.device()),
            Tensor::zeros(4, DType::F32, x.device()),
        );
        let norm = GroupNorm::new(one.unwrap(), zero.unwrap(), 2, 0.0);
        // torch.nn.functional.group_norm(x, 2, eps=0)
        let r5 = 5f32.sqrt();
        let r2 = 2f32.sqrt();
        let expected = [-3. / r5, -1. / r5, 1. / r5, 3. / r5, -r2, r2, 0., 0.];
        let tracked = Var::from_tensor(&x).unwrap();
        assert!(close(&norm.forward(&x).unwrap(), &expected));
        assert!(close(
            &norm.forward(tracked.as_tensor()).unwrap(),
            &expected
        ));
    }
}
