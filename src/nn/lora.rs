//! LoRA deltas of layers (arXiv 2106.09685).

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::{Linear, Placement, ops::Ops};

/// The LoRA deltas of a network by the path of their layer, as in
/// `down_blocks.0.attentions.0.proj_in`.
pub type LoraDeltas = HashMap<String, LoraDelta>;

/// `delta = scale * up @ down`.
#[derive(Clone, Debug)]
pub struct LoraDelta {
    /// (rank, inputs) for a linear layer, (rank, inputs, k, k) for a convolution.
    pub down: Tensor,
    /// (outputs, rank), for a convolution (outputs, rank, 1, 1).
    pub up: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

/// The sum of several LoRAs of one network.
pub fn sum_of(loras: impl IntoIterator<Item = LoraDeltas>) -> Result<LoraDeltas> {
    let mut sum = LoraDeltas::new();
    for (module, mut delta) in loras.into_iter().flatten() {
        if let Some(other) = sum.remove(&module) {
            delta = other.and(&delta)?;
        }
        sum.insert(module, delta);
    }
    Ok(sum)
}

impl LoraDelta {
    /// The sum of two deltas of one weight: their ranks are concatenated.
    fn and(&self, other: &Self) -> Result<Self> {
        let up = |delta: &Self| (&delta.up * delta.scale)?.flatten_from(1);
        Ok(Self {
            down: Tensor::cat(&[&self.down, &other.down], 0)?,
            up: Tensor::cat(&[up(self)?, up(other)?], 1)?,
            scale: 1.0,
        })
    }

    /// The delta on the device and in the type of the activations; itself if it is there,
    /// so that a trained one stays the variable that it is.
    pub(super) fn placed(&self, placement: &Placement) -> Result<Self> {
        let place = |x: &Tensor| {
            let x = x.to_device(&placement.device)?;
            x.to_dtype(placement.compute_dtype())
        };
        Ok(Self {
            down: place(&self.down)?,
            up: place(&self.up)?,
            scale: self.scale,
        })
    }

    /// The factors of the delta of a weight (outputs, ..) in f32 on a device, up (outputs, rank)
    /// and scaled, and down (rank, rest); or `None` if the shapes do not match.
    pub(super) fn factors_of(
        &self,
        weight: &Shape,
        device: &Device,
    ) -> Result<Option<[Tensor; 2]>> {
        let outputs = weight.dims().first().copied().unwrap_or_default();
        if !self.belongs(outputs, weight.elem_count())? {
            return Ok(None);
        }
        let factor = |x: &Tensor| {
            let x = x.to_device(device)?.to_dtype(DType::F32)?;
            x.flatten_from(1)?.contiguous()
        };
        Ok(Some([
            factor(&(&self.up * self.scale)?)?,
            factor(&self.down)?,
        ]))
    }

    /// The error message for a weight that does not match.
    pub fn mismatch(&self, weight: &Shape) -> String {
        format!(
            "its shape is {:?}, but the adapter's factors are {:?} and {:?}: the adapter belongs \
             to another model",
            weight.dims(),
            self.down.dims(),
            self.up.dims()
        )
    }

    /// Whether the delta matches a weight of `count` values in `outputs` rows.
    fn belongs(&self, outputs: usize, count: usize) -> Result<bool> {
        let rank = self.down.dim(0)?;
        let inputs = self.down.elem_count() / rank.max(1);
        let up = self.up.flatten_from(1)?; // (outputs, rank)
        Ok(up.dims() == [outputs, rank] && outputs * inputs == count)
    }
}

/// A LoRA delta that is not merged into its layer: it can be trained, and several
/// networks can share the layer.
#[derive(Clone, Debug)]
pub(super) struct LoraBranch<Layer> {
    pub(super) down: Layer,
    up: Linear,
    scale: f64,
}

impl<Layer> LoraBranch<Layer> {
    pub(super) fn new(ops: &'static dyn Ops, down: Layer, delta: &LoraDelta) -> Result<Self> {
        Ok(Self {
            down,
            up: Linear::new(ops, delta.up.flatten_from(1)?, None)?,
            scale: delta.scale,
        })
    }

    /// The delta of the layer's output, for the output of `down`, plus a residual.
    pub(super) fn forward_onto(&self, down: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.up.forward_onto(&(down * self.scale)?, residual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{LayerWeight, ops::Packed};

    fn merged(weight: &Tensor, delta: &LoraDelta) -> Option<Tensor> {
        let sum = LayerWeight::from(weight.clone()).plus(delta).unwrap();
        sum.map(|sum| Packed::F32.merge(&sum).unwrap())
    }

    fn waves(shape: &[usize], phase: f32) -> Tensor {
        let wave = |i: usize| (i as f32 * 0.7 + phase).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn merging_adds_the_scaled_product_of_the_factors() {
        let delta = LoraDelta {
            down: waves(&[3, 5, 3, 3], 0.1),
            up: waves(&[7, 3, 1, 1], 0.5),
            scale: 0.25,
        };
        let weight = waves(&[7, 5, 3, 3], 0.9);
        let merged = merged(&weight, &delta).unwrap();
        let (up, down) = (delta.up.flatten_from(1), delta.down.flatten_from(1));
        let delta = (up.unwrap().matmul(&down.unwrap()).unwrap() * 0.25).unwrap();
        let expected = (&weight + delta.reshape(weight.shape()).unwrap()).unwrap();
        let gap = (merged - expected).unwrap().abs().unwrap().max_all();
        assert!(gap.unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn loras_add_up() {
        let delta = |rank, phase, scale| LoraDelta {
            down: waves(&[rank, 5, 3, 3], phase),
            up: waves(&[7, rank, 1, 1], phase + 0.5),
            scale,
        };
        let (one, two) = (delta(3, 0.1, 0.25), delta(2, 0.3, -1.5));
        let layer = |delta: &LoraDelta| LoraDeltas::from([("x".to_owned(), delta.clone())]);
        let stack = sum_of([layer(&one), layer(&two)]).unwrap();
        let weight = waves(&[7, 5, 3, 3], 0.9);
        let stacked = merged(&weight, &stack["x"]).unwrap();
        let first = merged(&weight, &one).unwrap();
        let expected = merged(&first, &two).unwrap();
        let gap = (stacked - expected).unwrap().abs().unwrap().max_all();
        assert!(gap.unwrap().to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn a_delta_of_another_shape_is_an_error() {
        let delta = LoraDelta {
            down: waves(&[3, 5], 0.1),
            up: waves(&[7, 3], 0.5),
            scale: 1.0,
        };
        for shape in [[7, 6], [5, 7], [6, 5]] {
            assert!(merged(&waves(&shape, 0.), &delta).is_none());
        }
    }
}
