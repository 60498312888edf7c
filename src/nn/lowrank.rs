//! A low-rank change of one layer (LoRA, arXiv 2106.09685).

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};

use super::Linear;
use crate::kernel;

/// The low-rank changes of a network, by the path of the layer they change,
/// as in `down_blocks.0.attentions.0.proj_in`.
pub type LowRanks = HashMap<String, LowRank>;

/// `delta = scale * up @ down`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// (rank, inputs) for a linear layer, (rank, inputs, k, k) for a convolution.
    pub down: Tensor,
    /// (outputs, rank), for a convolution (outputs, rank, 1, 1).
    pub up: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

/// Several changes of one network as one, each times its share.
pub fn stacked(layers: &[(LowRanks, f64)]) -> Result<LowRanks> {
    let mut stack = LowRanks::new();
    for (changes, share) in layers {
        for (module, change) in changes {
            let change = change.times(*share);
            let change = match stack.remove(module) {
                Some(below) => below.and(&change)?,
                None => change,
            };
            stack.insert(module.clone(), change);
        }
    }
    Ok(stack)
}

impl LowRank {
    fn times(&self, share: f64) -> Self {
        let scale = self.scale * share;
        Self {
            scale,
            ..self.clone()
        }
    }

    /// The sum of two changes of one weight: their ranks side by side.
    fn and(&self, other: &Self) -> Result<Self> {
        let up = |change: &Self| (&change.up * change.scale)?.flatten_from(1);
        Ok(Self {
            down: Tensor::cat(&[&self.down, &other.down], 0)?,
            up: Tensor::cat(&[up(self)?, up(other)?], 1)?,
            scale: 1.0,
        })
    }

    /// A weight (outputs, ..) with this change, in f32, or `None` where the
    /// shapes do not belong to such a weight.
    pub fn merged_into(&self, weight: &Tensor) -> Result<Option<Tensor>> {
        let weight = weight.to_dtype(DType::F32)?.contiguous()?;
        let (outputs, count) = (weight.dim(0)?, weight.elem_count());
        if !self.belongs(outputs, count)? {
            return Ok(None);
        }
        let factor = |x: &Tensor| {
            let x = x.to_device(weight.device())?.to_dtype(DType::F32)?;
            x.flatten_from(1)?.contiguous()
        };
        let (up, down) = (factor(&(&self.up * self.scale)?)?, factor(&self.down)?);
        if weight.device().is_cpu() {
            return kernel::add_product(&weight, &up, &down).map(Some);
        }
        let delta = up.matmul(&down)?.reshape(weight.shape())?;
        Ok(Some((&weight + delta)?))
    }

    /// Whether this changes a weight with `count` values, `outputs` rows.
    fn belongs(&self, outputs: usize, count: usize) -> Result<bool> {
        let rank = self.down.dim(0)?;
        let inputs = self.down.elem_count() / rank.max(1);
        let up = self.up.flatten_from(1)?; // (outputs, rank)
        Ok(up.dims() == [outputs, rank] && outputs * inputs == count)
    }
}

/// A low-rank change that is computed beside its layer: it can be trained, and
/// several networks can share the layer.
#[derive(Clone, Debug)]
pub(super) struct Beside<Layer> {
    /// From the layer's input to few channels.
    pub(super) down: Layer,
    up: Linear,
    scale: f64,
}

impl<Layer> Beside<Layer> {
    /// The change whose first factor is the layer `down`.
    pub(super) fn new(down: Layer, change: &LowRank) -> Result<Self> {
        Ok(Self {
            down,
            up: Linear::new(change.up.flatten_from(1)?, None)?,
            scale: change.scale,
        })
    }

    /// What is added to the layer's output: the change, for an input that
    /// `down` has seen, and a residual.
    pub(super) fn onto(&self, seen: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.up.forward_onto(&(seen * self.scale)?, residual)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn waves(shape: &[usize], phase: f32) -> Tensor {
        let wave = |i: usize| (i as f32 * 0.7 + phase).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn merging_adds_the_scaled_product_of_the_factors() {
        let change = LowRank {
            down: waves(&[3, 5, 3, 3], 0.1),
            up: waves(&[7, 3, 1, 1], 0.5),
            scale: 0.25,
        };
        let weight = waves(&[7, 5, 3, 3], 0.9);
        let merged = change.merged_into(&weight).unwrap().unwrap();
        let (up, down) = (change.up.flatten_from(1), change.down.flatten_from(1));
        let delta = (up.unwrap().matmul(&down.unwrap()).unwrap() * 0.25).unwrap();
        let expected = (&weight + delta.reshape(weight.shape()).unwrap()).unwrap();
        let gap = (merged - expected).unwrap().abs().unwrap().max_all();
        assert!(gap.unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn stacked_changes_add_up_by_their_shares() {
        let change = |rank, phase, scale| LowRank {
            down: waves(&[rank, 5, 3, 3], phase),
            up: waves(&[7, rank, 1, 1], phase + 0.5),
            scale,
        };
        let (one, two) = (change(3, 0.1, 0.25), change(2, 0.3, 2.0));
        let layer = |change: &LowRank| LowRanks::from([("x".to_owned(), change.clone())]);
        let stack = stacked(&[(layer(&one), 1.0), (layer(&two), 0.5)]).unwrap();
        let weight = waves(&[7, 5, 3, 3], 0.9);
        let merged = stack["x"].merged_into(&weight).unwrap().unwrap();
        let first = one.merged_into(&weight).unwrap().unwrap();
        let half = LowRank { scale: 1.0, ..two };
        let expected = half.merged_into(&first).unwrap().unwrap();
        let gap = (merged - expected).unwrap().abs().unwrap().max_all();
        assert!(gap.unwrap().to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn a_change_of_another_weight_is_told() {
        let change = LowRank {
            down: waves(&[3, 5], 0.1),
            up: waves(&[7, 3], 0.5),
            scale: 1.0,
        };
        for shape in [[7, 6], [5, 7], [6, 5]] {
            assert!(change.merged_into(&waves(&shape, 0.)).unwrap().is_none());
        }
    }
}
