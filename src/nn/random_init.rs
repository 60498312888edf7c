//! Initial weights for training: random, or those of a file.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use candle_core::{DType, Shape, Tensor, Var};

use super::Placement;
use crate::{error::Result, io::Checkpoint, noise::mixed};

/// A source of initial weights: matrices uniform within 1 / sqrt(inputs), as in PyTorch,
/// biases zero, the scales of norms one.
///
/// Optional tensors, which are detected by their presence in a file, are added by name.
#[derive(Default)]
pub struct RandomInit {
    seed: u64,
    base: Option<Checkpoint>,
    present: HashMap<String, Vec<usize>>,
    vars: Option<Mutex<BTreeMap<String, Var>>>,
}

impl RandomInit {
    /// Creates weights from a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Adds an optional tensor such as `time_embedding.cond_proj.weight`.
    pub fn with(mut self, name: &str, shape: &[usize]) -> Self {
        self.present.insert(name.into(), shape.into());
        self
    }

    /// Takes the weights from a file. Missing tensors are zero, so that the network
    /// initially computes the same as the file's.
    pub fn starting_from(self, base: Checkpoint) -> Self {
        let base = Some(base);
        Self { base, ..self }
    }

    /// Makes the weights trainable.
    pub fn trainable(self) -> Self {
        let vars = Some(Mutex::default());
        Self { vars, ..self }
    }

    /// The trainable weights read so far, by name.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        let vars = self.vars.as_ref().map(|vars| {
            let vars = vars.lock().unwrap_or_else(PoisonError::into_inner);
            vars.clone()
        });
        vars.unwrap_or_default()
    }

    /// The shape of an optional tensor. All layers except the projections of attention
    /// have a bias, of any requested length.
    pub(super) fn optional(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(base) = &self.base {
            let shape = base.shape(name);
            return shape.or_else(|| self.present.get(name).cloned());
        }
        let layer = name.strip_suffix(".bias");
        let is_plain = |layer: &str| !["to_q", "to_k", "to_v"].iter().any(|q| layer.ends_with(q));
        match layer.is_some_and(is_plain) {
            true => Some(Vec::new()),
            false => self.present.get(name).cloned(),
        }
    }

    /// The tensor `name` of this shape.
    pub(super) fn load(&self, name: &str, shape: &Shape, placement: &Placement) -> Result<Tensor> {
        let tensor = match &self.base {
            Some(base) if base.shape(name).is_none() => {
                Tensor::zeros(shape, DType::F32, &placement.device)?
            }
            Some(base) => Self::stored(base, name, shape, placement)?,
            None => Tensor::from_vec(self.values(name, shape), shape, &placement.device)?,
        };
        let Some(vars) = &self.vars else {
            return Ok(tensor.to_dtype(placement.dtype)?);
        };
        let var = Var::from_tensor(&tensor)?;
        let mut vars = vars.lock().unwrap_or_else(PoisonError::into_inner);
        vars.insert(name.into(), var.clone());
        Ok(var.as_tensor().clone())
    }

    /// A tensor of the file, in f32.
    fn stored(
        base: &Checkpoint,
        name: &str,
        shape: &Shape,
        placement: &Placement,
    ) -> Result<Tensor> {
        let found = base.load(name, &placement.device)?;
        if found.shape() != shape {
            let reason = format!("expected {shape:?}, found {:?}", found.shape());
            return Err(base.tensor_fault(name, &reason));
        }
        Ok(found.to_dtype(DType::F32)?)
    }

    fn values(&self, name: &str, shape: &Shape) -> Vec<f32> {
        let count = shape.elem_count();
        if shape.rank() < 2 {
            return vec![if name.ends_with("bias") { 0.0 } else { 1.0 }; count];
        }
        let bound = 1.0 / ((count / shape.dims()[0]) as f32).sqrt();
        let mut state = name.bytes().fold(self.seed, |state, byte| {
            mixed(state ^ u64::from(byte)) // different for every tensor
        });
        let uniform = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let unit = (mixed(state) >> 40) as f32 / (1u32 << 24) as f32;
            bound * (2.0 * unit - 1.0)
        };
        std::iter::repeat_with(uniform).take(count).collect()
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::nn::Weights;

    #[test]
    fn matrices_are_spread_evenly_within_their_bound() {
        let init = RandomInit::new(7);
        let placement = Placement::cpu_f32();
        let weight = init.load("a.weight", &(64, 256).into(), &placement);
        let values = weight.unwrap().flatten_all().unwrap();
        let values = values.to_vec1::<f32>().unwrap();
        let bound = 1.0 / 16.0;
        assert!(values.iter().all(|value| value.abs() <= bound));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.02 * bound, "{mean}");
        // The variance of a uniform number within +-a is a * a / 3.
        assert!(
            (square / (bound * bound / 3.0) - 1.0).abs() < 0.03,
            "{square}"
        );
    }

    #[test]
    fn trainable_weights_are_remembered_by_name() {
        let init = RandomInit::new(7).trainable();
        let placement = Placement::cpu_f32();
        let w = Weights::initial(&init, &placement);
        w.at("attn.to_q").linear(4, 6).unwrap();
        w.at("ff").linear(4, 6).unwrap();
        w.at("norm").layer_norm(4, 1e-5).unwrap();
        let names: Vec<_> = init.vars().into_keys().collect();
        let expected = [
            "attn.to_q.weight",
            "ff.bias",
            "ff.weight",
            "norm.bias",
            "norm.weight",
        ];
        assert_eq!(names, expected);
    }
}
