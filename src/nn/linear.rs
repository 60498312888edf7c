//! The linear layer.

use candle_core::{Result, Tensor};

use super::{
    LayerWeight, LoraDelta,
    lora::LoraBranch,
    ops::{LinearWeight, Ops},
};
use crate::kernel::Epilogue;

/// `y = x W^T + b` over the last axis.
#[derive(Clone, Debug)]
pub struct Linear {
    ops: &'static dyn Ops,
    weight: LinearWeight,
    bias: Option<Tensor>,
    lora: Option<Box<LoraBranch<Self>>>,
}

impl Linear {
    /// Creates a layer with weight (outputs, inputs) and bias (outputs).
    pub fn new<'a>(
        ops: &'static dyn Ops,
        weight: impl Into<LayerWeight<'a>>,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        Ok(Self {
            ops,
            weight: ops.pack_linear(&weight.into())?,
            bias: bias.map(|bias| ops.pack_bias(bias)).transpose()?,
            lora: None,
        })
    }

    /// One layer with the outputs of several of one input side by side, if the backend has
    /// use for it: larger products are faster on a GPU.
    pub fn joined(layers: &[Self]) -> Result<Option<Self>> {
        let Some(Self { ops, .. }) = layers.first() else {
            return Ok(None);
        };
        let biases: Option<Vec<_>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let bare = layers.iter().all(|layer| layer.bias.is_none());
        if layers.iter().any(|layer| layer.lora.is_some()) || (biases.is_none() && !bare) {
            return Ok(None);
        }
        let weights: Vec<_> = layers.iter().map(|layer| &layer.weight).collect();
        let Some(weight) = ops.join_linear(&weights)? else {
            return Ok(None);
        };
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Some(Self {
            ops: *ops,
            weight,
            bias,
            lora: None,
        }))
    }

    /// Adds a LoRA branch, which may be trained. The weight is shared with this layer.
    pub fn with_lora(&self, delta: &LoraDelta) -> Result<Self> {
        let down = Self::new(self.ops, delta.down.flatten_from(1)?, None)?; // (rank, inputs)
        Ok(Self {
            lora: Some(Box::new(LoraBranch::new(self.ops, down, delta)?)),
            ..self.clone()
        })
    }

    /// Maps (.., inputs) to (.., outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_onto(x, None)
    }

    /// Maps (.., inputs) to (.., outputs) and adds a residual of that shape.
    pub fn forward_onto(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        match &self.lora {
            Some(lora) => {
                let onto = lora.forward_onto(&lora.down.forward(x)?, residual)?;
                self.base(x, Some(&onto))
            }
            None => self.base(x, residual),
        }
    }

    /// Maps (.., inputs) to (.., 2 d) and multiplies the first half by the exact
    /// GELU of the second: (.., d) (GEGLU, arXiv 2002.05202).
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        match &self.lora {
            Some(_) => self.ops.geglu(&self.forward(x)?),
            None => self.ops.linear_geglu(x, &self.weight, self.bias.as_ref()),
        }
    }

    /// The feed-forward network of this layer with GEGLU and `outer`, onto a residual: x
    /// (.., inputs) to (.., outputs).
    pub fn feed_forward(
        &self,
        outer: &Self,
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        if self.lora.is_some() || outer.lora.is_some() {
            return outer.forward_onto(&self.forward_geglu(x)?, residual);
        }
        let layers = [self, outer].map(|layer| (&layer.weight, layer.bias.as_ref()));
        self.ops.feed_forward(x, layers, residual)
    }

    /// The layer without its LoRA branch.
    fn base(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let epilogue = Epilogue { bias, residual };
        self.ops.linear(x, &self.weight, epilogue)
    }
}
