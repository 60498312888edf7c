//! AdamW (I. Loshchilov and F. Hutter, arXiv 1711.05101), whose moments, unlike candle's,
//! can be saved and restored.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;

use super::Gradients;
use crate::{
    error::{Error, Result},
    io::Tensors,
    kernel::{self, AdamWStep},
    nn::GradientSink,
};

/// The settings of an [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the first and the second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// Maximum norm of the gradients of all weights together.
    pub clip: Option<f64>,
    /// Decay of an exponential moving average (EMA) of the weights; at most
    /// (1 + n) / (10 + n) in step n, to forget the initial weights.
    pub average: Option<f64>,
}

impl Default for AdamWConfig {
    /// The settings of the reference: no weight decay, gradients of norm 1 at most, no EMA.
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-8,
            decay: 0.0,
            clip: Some(1.0),
            average: None,
        }
    }
}

/// The optimiser of named weights.
#[derive(Debug)]
pub struct AdamW {
    slots: BTreeMap<String, Slot>,
    config: AdamWConfig,
    steps: usize,
    sink: GradientSink,
}

/// A weight with its moments and its EMA.
#[derive(Debug)]
struct Slot {
    weight: Var,
    first: Tensor,
    second: Tensor,
    average: Option<Tensor>,
}

impl AdamW {
    /// Creates an optimiser of these weights.
    pub fn new(weights: BTreeMap<String, Var>, config: AdamWConfig) -> Result<Self> {
        let slot = |(name, weight): (String, Var)| -> Result<_> {
            let slot = Slot {
                first: weight.zeros_like()?,
                second: weight.zeros_like()?,
                average: match config.average {
                    Some(_) => Some(weight.as_detached_tensor().copy()?),
                    None => None,
                },
                weight,
            };
            Ok((name, slot))
        };
        Ok(Self {
            sink: GradientSink::of(weights.values()),
            slots: weights.into_iter().map(slot).collect::<Result<_>>()?,
            config,
            steps: 0,
        })
    }

    /// The sink for the gradients of checkpointed networks.
    pub fn gradient_sink(&self) -> &GradientSink {
        &self.sink
    }

    /// Takes a step at this learning rate and returns the norm of the gradients. Weights
    /// without a gradient are not changed.
    pub fn step(&mut self, gradients: &Gradients, rate: f64) -> Result<f64> {
        let norm = self.norm(gradients)?;
        if !norm.is_finite() {
            return Err(Error::Numbers(format!(
                "the gradients of step {} are not numbers: lower the learning rate",
                self.steps
            )));
        }
        self.steps += 1;
        let config = self.config;
        let (beta1, beta2) = config.betas;
        let count = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let shrink = |clip: f64| (clip / norm.max(1e-12)).min(1.0);
        let young = (1 + self.steps) as f64 / (10 + self.steps) as f64;
        let kept = config.average.unwrap_or_default().min(young);
        let step = AdamWStep {
            betas: config.betas,
            eps: config.eps,
            shrink: config.clip.map_or(1.0, shrink),
            missing: (1.0 - beta1.powi(count), 1.0 - beta2.powi(count)),
            rate,
            left: 1.0 - rate * config.decay,
        };
        let take = |(name, slot): (&String, &mut Slot)| match gradients.get(name) {
            Some(gradient) => slot.step(gradient, step, kept),
            None => Ok(()),
        };
        self.slots.par_iter_mut().try_for_each(take)?;
        Ok(norm)
    }

    fn norm(&self, gradients: &Gradients) -> Result<f64> {
        let slots = self.slots.par_iter();
        let gradients = slots.filter_map(|(name, _)| gradients.get(name));
        // Collected first: the sum must not depend on the order in which threads finish.
        let squares: Vec<f64> = gradients.map(square_sum).collect::<Result<_>>()?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    /// The variables by name.
    pub fn vars(&self) -> impl Iterator<Item = (&String, &Var)> {
        self.slots.iter().map(|(name, slot)| (name, &slot.weight))
    }

    /// The weights by name, which share memory with the variables.
    pub fn weights(&self) -> Tensors {
        self.tensors(|slot| Some(slot.weight.as_tensor()))
    }

    /// The EMA of the weights, or the weights themselves without EMA.
    pub fn averages(&self) -> Tensors {
        self.tensors(|slot| slot.average.as_ref().or(Some(slot.weight.as_tensor())))
    }

    fn tensors<'a>(&'a self, pick: impl Fn(&'a Slot) -> Option<&'a Tensor>) -> Tensors {
        let named = |(name, slot): (&String, &'a Slot)| Some((name.clone(), pick(slot)?.clone()));
        self.slots.iter().filter_map(named).collect()
    }

    /// The complete state, with names below `prefix`. The tensors share memory with the
    /// optimiser: further steps change them.
    pub fn state(&self, prefix: &str) -> Result<Tensors> {
        let parts: [(&str, Tensors); 4] = [
            ("weight", self.weights()),
            ("first", self.tensors(|slot| Some(&slot.first))),
            ("second", self.tensors(|slot| Some(&slot.second))),
            ("average", self.tensors(|slot| slot.average.as_ref())),
        ];
        let steps = Tensor::new(self.steps as i64, &Device::Cpu)?;
        let mut state = vec![(format!("{prefix}.steps"), steps)];
        for (part, tensors) in parts {
            let named = |(name, tensor)| (format!("{prefix}.{part}.{name}"), tensor);
            state.extend(tensors.into_iter().map(named));
        }
        Ok(state)
    }

    /// Restores a [`state`](Self::state).
    pub fn restore(&mut self, prefix: &str, state: &HashMap<String, Tensor>) -> Result<()> {
        let find = |name: &str, like: Option<&Tensor>| -> Result<Tensor> {
            let name = format!("{prefix}.{name}");
            let found = state.get(&name).ok_or_else(|| missing(&name))?;
            let Some(like) = like else {
                return Ok(found.clone());
            };
            if found.shape() != like.shape() {
                return Err(missing(&name));
            }
            // A copy, because steps change these tensors in place.
            let found = found.to_device(like.device())?.to_dtype(like.dtype())?;
            Ok(found.copy()?)
        };
        self.steps = find("steps", None)?.to_scalar::<i64>()? as usize;
        for (name, slot) in &mut self.slots {
            let weight = find(&format!("weight.{name}"), Some(slot.weight.as_tensor()))?;
            slot.weight.set(&weight)?;
            slot.first = find(&format!("first.{name}"), Some(&slot.first))?;
            slot.second = find(&format!("second.{name}"), Some(&slot.second))?;
            if let Some(average) = &mut slot.average {
                *average = find(&format!("average.{name}"), Some(average))?;
            }
        }
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::setting(format!(
        "the saved state has no matching tensor {name:?}: it belongs to another training"
    ))
}

fn square_sum(x: &Tensor) -> Result<f64> {
    let sum = x.to_dtype(DType::F32)?.sqr()?.sum_all()?;
    Ok(f64::from(sum.to_scalar::<f32>()?))
}

impl Slot {
    /// Takes a step; `kept` is the decay of the EMA.
    fn step(&mut self, gradient: &Tensor, step: AdamWStep, kept: f64) -> Result<()> {
        match self.weight.device().is_cpu() && self.weight.dtype() == DType::F32 {
            true => self.step_in_place(gradient, step, kept),
            false => self.step_composed(gradient, step, kept),
        }
    }

    /// With the CPU kernels.
    fn step_in_place(&self, gradient: &Tensor, step: AdamWStep, kept: f64) -> Result<()> {
        let weight = self.weight.as_tensor();
        let moments = [weight, &self.first, &self.second];
        kernel::adamw(moments, &gradient.contiguous()?, step)?;
        match &self.average {
            Some(average) => Ok(kernel::follow(average, weight, kept)?),
            None => Ok(()),
        }
    }

    /// With candle's operations, on any device.
    fn step_composed(&mut self, gradient: &Tensor, step: AdamWStep, kept: f64) -> Result<()> {
        let (beta1, beta2) = step.betas;
        // Detached: otherwise each step's tensors would keep those of the previous step.
        let weight = self.weight.as_detached_tensor();
        let gradient = (gradient.detach() * step.shrink)?;
        self.first = follow(&self.first, &gradient, beta1)?;
        self.second = follow(&self.second, &gradient.sqr()?, beta2)?;
        let root = ((&self.second / step.missing.1)?.sqrt()? + step.eps)?;
        let ahead = ((&self.first / root)? * (step.rate / step.missing.0))?;
        self.weight.set(&((&weight * step.left)? - ahead)?)?;
        if let Some(average) = &mut self.average {
            *average = follow(average, &weight, kept)?;
        }
        Ok(())
    }
}

/// beta old + (1 - beta) new.
fn follow(old: &Tensor, new: &Tensor, beta: f64) -> Result<Tensor> {
    Ok(((old * beta)? + (new * (1.0 - beta))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: AdamWConfig = AdamWConfig {
        betas: (0.9, 0.99),
        eps: 1e-8,
        decay: 0.01,
        clip: Some(1.0),
        average: Some(0.3),
    };

    const STEP: AdamWStep = AdamWStep {
        betas: CONFIG.betas,
        eps: CONFIG.eps,
        shrink: 0.3,
        missing: (0.19, 0.0199),
        rate: 0.1,
        left: 0.999,
    };

    fn start() -> (Var, AdamW) {
        let weight = Var::new(&[1f32, -2.0, 3.0], &Device::Cpu).unwrap();
        let named = BTreeMap::from([("w".to_owned(), weight.clone())]);
        (weight, AdamW::new(named, CONFIG).unwrap())
    }

    /// Steps on sum(k w^2) at rate 0.1; the norms of the gradients.
    fn steps(weight: &Var, optimiser: &mut AdamW, count: usize) -> Vec<f64> {
        let k = Tensor::new(&[1f32, 0.5, 2.0], &Device::Cpu).unwrap();
        let mut step = || {
            let loss = (weight.sqr().unwrap() * &k).unwrap().sum_all().unwrap();
            let gradients = Gradients::of(optimiser.vars(), &loss.backward().unwrap());
            optimiser.step(&gradients, 0.1).unwrap()
        };
        (0..count).map(|_| step()).collect()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_vec1().unwrap()
    }

    #[test]
    fn a_step_keeps_nothing_of_the_step_before() {
        let (weight, mut optimiser) = start();
        let slot = optimiser.slots.get_mut("w").unwrap();
        for _ in 0..2 {
            let gradient = (weight.as_tensor() * 2.0).unwrap();
            slot.step_composed(&gradient, STEP, 0.5).unwrap();
        }
        for tensor in [&slot.first, &slot.second, slot.average.as_ref().unwrap()] {
            let store = tensor.sum_all().unwrap().backward().unwrap();
            assert!(
                store.get(&weight).is_none(),
                "it was computed from the weight"
            );
        }
    }

    #[test]
    fn both_ways_to_step_agree() {
        let stepped = |way: fn(&mut Slot, &Tensor) -> Result<()>| {
            let (weight, mut optimiser) = start();
            let slot = optimiser.slots.get_mut("w").unwrap();
            for gradient in [[1f32, -4.0, 0.5], [2.0, 3.0, -0.25]] {
                way(slot, &Tensor::new(&gradient, &Device::Cpu).unwrap()).unwrap();
            }
            let average = slot.average.as_ref().unwrap();
            [weight.as_tensor(), &slot.first, &slot.second, average].map(values)
        };
        let in_place = stepped(|slot, gradient| slot.step_in_place(gradient, STEP, 0.5));
        let composed = stepped(|slot, gradient| slot.step_composed(gradient, STEP, 0.5));
        for (a, b) in in_place.iter().flatten().zip(composed.iter().flatten()) {
            assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{a} {b}");
        }
    }

    #[test]
    fn steps_are_those_of_pytorch() {
        // torch.optim.AdamW([w], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
        // after clip_grad_norm_([w], 1.0)
        let (weight, mut optimiser) = start();
        let norms = steps(&weight, &mut optimiser, 5);
        let close = |found: f64, expected: f64| (found - expected).abs() < 2e-6 * expected.abs();
        assert!(close(norms[0], 12.328_828) && close(norms[4], 10.544_353));
        let pairs = |found: &[f32], expected: [f64; 3]| {
            let pairs = found.iter().zip(expected);
            pairs.for_each(|(&x, y)| assert!(close(f64::from(x), y), "{found:?} {expected:?}"));
        };
        pairs(
            &values(&weight),
            [0.500_669_84, -1.491_754_77, 2.485_942_60],
        );
        let averages = values(&optimiser.averages()[0].1);
        pairs(&averages, [0.542_571_50, -1.534_812_91, 2.529_572_95]);
    }

    #[test]
    fn a_restored_optimiser_continues_identically() {
        let (weight, mut optimiser) = start();
        steps(&weight, &mut optimiser, 3);
        let state = optimiser.state("x").unwrap().into_iter().collect();
        let (other, mut restored) = start();
        restored.restore("x", &state).unwrap();
        steps(&weight, &mut optimiser, 4);
        steps(&other, &mut restored, 4);
        assert_eq!(values(&weight), values(&other));
        let average = |optimiser: &AdamW| values(&optimiser.averages()[0].1);
        assert_eq!(average(&optimiser), average(&restored));
    }

    #[test]
    fn another_state_is_refused_by_name() {
        let (_, mut optimiser) = start();
        let error = optimiser.restore("x", &HashMap::new()).unwrap_err();
        assert!(error.to_string().contains("x.steps"), "{error}");
    }
}
