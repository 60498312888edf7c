//! The CUDA kernels, and candle's operations for what they do not take.

use candle_core::{DType, Result, Tensor};

use super::{AttentionMode, ConvWeight, Cuda, LinearWeight, Ops, composed};
use crate::{
    kernel::{Activation, ConvEpilogue, ConvGeometry, Epilogue, cuda},
    nn::{GroupNorm, LayerNorm, LayerWeight},
};

/// The kernels read this many channels at once.
const VECTOR: usize = 8;

impl Ops for Cuda {
    fn join_linear(&self, weights: &[&LinearWeight]) -> Result<Option<LinearWeight>> {
        let plain = |weight: &&LinearWeight| match weight {
            LinearWeight::Plain(weight) if is_packed(weight) => Some(weight.clone()),
            _ => None,
        };
        let weights: Option<Vec<_>> = weights.iter().map(plain).collect();
        let joined = weights
            .map(|weights| Tensor::cat(&weights, 0))
            .transpose()?;
        Ok(joined.map(LinearWeight::Plain))
    }

    fn pack_conv2d(&self, weight: &LayerWeight) -> Result<ConvWeight> {
        let weight = self.merge(weight)?;
        Ok(match is_packed(&weight) {
            true => ConvWeight::ChannelsLast(padded(&weight.permute((0, 2, 3, 1))?)?),
            false => ConvWeight::Plain(weight),
        })
    }

    fn linear(&self, x: &Tensor, weight: &LinearWeight, epilogue: Epilogue) -> Result<Tensor> {
        let LinearWeight::Plain(plain) = weight else {
            return composed::linear(x, weight, epilogue);
        };
        match cuda::linear(x, plain, epilogue)? {
            Some(y) => Ok(y),
            None => composed::linear(x, weight, epilogue),
        }
    }

    fn linear_geglu(
        &self,
        x: &Tensor,
        weight: &LinearWeight,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let fused = match weight {
            LinearWeight::Plain(weight) => cuda::linear_geglu(x, weight, bias)?,
            LinearWeight::Packed(_) => None,
        };
        match fused {
            Some(y) => Ok(y),
            None => self.geglu(&self.linear(x, weight, Epilogue::bias(bias))?),
        }
    }

    fn conv2d(
        &self,
        x: &Tensor,
        weight: &ConvWeight,
        geometry: ConvGeometry,
        epilogue: ConvEpilogue,
    ) -> Result<Tensor> {
        let fused = match weight {
            ConvWeight::ChannelsLast(weight) if !x.track_op() => {
                cuda::conv2d(&padded(x)?, weight, geometry, epilogue)?
            }
            _ => None,
        };
        match fused {
            Some(y) => Ok(y),
            None => composed::conv2d(x, weight, geometry, epilogue),
        }
    }

    fn group_norm(&self, x: &Tensor, norm: &GroupNorm, activation: Activation) -> Result<Tensor> {
        let affine = [&norm.weight, &norm.bias];
        match cuda::group_norm(x, affine, norm.groups, norm.eps, activation)? {
            Some(y) => Ok(y),
            None => self.activate(&composed::group_norm(x, norm)?, activation),
        }
    }

    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        match cuda::layer_norm(x, [&norm.weight, &norm.bias], norm.eps)? {
            Some(y) => Ok(y),
            None => composed::layer_norm(x, norm),
        }
    }

    fn attention(&self, qkv: [&Tensor; 3], heads: usize, mode: AttentionMode) -> Result<Tensor> {
        let fused = match mode {
            AttentionMode::Full => cuda::attend(qkv, heads)?,
            AttentionMode::Causal => cuda::attend_causally(qkv, heads)?,
            AttentionMode::FirstRowsMaps => cuda::attend_through_first(qkv, heads)?,
        };
        match fused {
            Some(y) => Ok(y),
            None => composed::attention(qkv, heads, mode),
        }
    }

    fn attention_maps(&self, q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
        match cuda::attention_maps(q, k, heads)? {
            Some(maps) => Ok(maps),
            None => composed::attention_maps(q, k, heads),
        }
    }
}

/// Whether the layers of a weight run on the kernels.
fn is_packed(weight: &Tensor) -> bool {
    matches!(weight.dtype(), DType::F16 | DType::BF16) && !weight.track_op()
}

/// x (.., channels) with zeros after the channels, as many as the kernels read.
fn padded(x: &Tensor) -> Result<Tensor> {
    let axis = x.rank() - 1;
    let channels = x.dims()[axis];
    match channels.next_multiple_of(VECTOR) - channels {
        0 => x.contiguous(),
        missing => x.pad_with_zeros(axis, 0, missing)?.contiguous(),
    }
}
