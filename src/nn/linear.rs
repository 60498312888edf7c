//! The affine map.

use candle_core::{Result, Tensor};

/// `y = x W^T + b` over the last axis.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A map of weight (outputs, inputs) and bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Maps (.., inputs) to (.., outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let weight = self.weight.to_dtype(x.dtype())?;
        let y = x
            .reshape(((), inputs))?
            .matmul(&weight.t()?)?
            .reshape(shape)?; // (.., outputs)
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
            None => Ok(y),
        }
    }
}
