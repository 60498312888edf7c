//! The affine map.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::{LowRank, add, geglu, lowrank::Beside, on_cpu};
use crate::kernel::{self, Dense, profile};

/// `y = x W^T + b` over the last axis.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    change: Option<Box<Beside<Self>>>,
}

#[derive(Clone, Debug)]
enum Weight {
    /// Frozen, on a CPU.
    Packed(Arc<Dense>),
    /// Trained, or elsewhere.
    Plain(Tensor),
}

impl Linear {
    /// A map of weight (outputs, inputs) and bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        if !weight.device().is_cpu() || weight.track_op() {
            return Ok(Self {
                weight: Weight::Plain(weight),
                bias,
                change: None,
            });
        }
        Ok(Self {
            weight: Weight::Packed(Arc::new(Dense::new(&weight)?)),
            bias: bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?,
            change: None,
        })
    }

    /// The same map with a low-rank change computed beside it. The weight is
    /// shared with this map, and the change may be trained.
    pub fn with_change(&self, change: &LowRank) -> Result<Self> {
        let down = Self::new(change.down.flatten_from(1)?, None)?; // (rank, inputs)
        Ok(Self {
            change: Some(Box::new(Beside::new(down, change)?)),
            ..self.clone()
        })
    }

    /// Maps (.., inputs) to (.., outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_onto(x, None)
    }

    /// Maps (.., inputs) to (.., 2 d) and multiplies the first half by the
    /// exact GELU of the second: (.., d) (GEGLU, arXiv 2002.05202).
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            // With fewer rows, reading the weights for each block of them costs more.
            Weight::Packed(dense)
                if !x.track_op() && self.change.is_none() && rows(x) >= 8 * dense.inputs() =>
            {
                let x = &x.contiguous()?;
                let about = |_: &Tensor| dense_about(x, dense);
                profile::of(about, || kernel::linear_geglu(x, dense, self.bias.as_ref()))
            }
            _ => geglu(&self.forward(x)?),
        }
    }

    /// Maps (.., inputs) to (.., outputs) and adds a residual of that shape.
    pub fn forward_onto(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let x = &x.contiguous()?;
        match &self.change {
            Some(change) => {
                let onto = change.onto(&change.down.forward(x)?, residual)?;
                self.weighted(x, Some(&onto))
            }
            None => self.weighted(x, residual),
        }
    }

    /// The map without its change.
    fn weighted(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::Packed(dense) => {
                let about = |_: &Tensor| dense_about(x, dense);
                let work = || kernel::linear(x, dense, self.bias.as_ref(), residual);
                return profile::of(about, work);
            }
            Weight::Plain(weight) if on_cpu(x) && weight.dtype() == DType::F32 => {
                let none = Tensor::zeros(weight.dim(0)?, DType::F32, x.device())?;
                kernel::linear_tracked(x, weight, self.bias.as_ref().unwrap_or(&none))?
            }
            Weight::Plain(weight) => composed(x, weight, self.bias.as_ref())?,
        };
        match residual {
            Some(residual) => add(&y, residual),
            None => Ok(y),
        }
    }
}

/// The name and the floating point operations of a map.
fn dense_about(x: &Tensor, dense: &Dense) -> (String, f64) {
    let (rows, inputs, outputs) = (rows(x), dense.inputs(), dense.outputs());
    let flops = 2.0 * (rows * inputs * outputs) as f64;
    (format!("linear of {rows} rows"), flops)
}

/// Number of rows of x (.., inputs).
fn rows(x: &Tensor) -> usize {
    x.dims().iter().rev().skip(1).product()
}

/// The same from candle's operations, on every device.
fn composed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let weight = weight.to_dtype(x.dtype())?.t()?;
    let y = x.reshape(((), inputs))?.matmul(&weight)?.reshape(shape)?; // (.., outputs)
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn the_gate_is_the_same_in_one_and_in_two_steps() {
        let wave = |shape: (usize, usize)| {
            let values = (0..shape.0 * shape.1).map(|i| (i as f32 * 0.7).sin());
            Tensor::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
        };
        let bias = wave((1, 30)).flatten_all().unwrap();
        let linear = Linear::new(wave((30, 9)), Some(bias)).unwrap();
        let x = wave((101, 9)); // enough rows for the one step
        let gap = linear.forward_geglu(&x).unwrap() - geglu(&linear.forward(&x).unwrap()).unwrap();
        let gap = gap.unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn the_three_ways_agree() {
        let wave = |shape: &[usize]| {
            let count = shape.iter().product();
            let values = (0..count).map(|i: usize| (i as f32 * 0.7).sin()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (x, weight, bias) = (wave(&[2, 5, 7]), wave(&[6, 7]), wave(&[6]));
        let residual = wave(&[2, 5, 6]);
        let plain = (composed(&x, &weight, Some(&bias)).unwrap() + &residual).unwrap();
        let trained = Var::from_tensor(&weight).unwrap().as_tensor().clone();
        for weight in [weight, trained] {
            let linear = Linear::new(weight, Some(bias.clone())).unwrap();
            let gap = linear.forward_onto(&x, Some(&residual)).unwrap() - &plain;
            let gap = gap.unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
        }
    }
}
