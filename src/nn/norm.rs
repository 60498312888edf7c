//! Normalisation layers.

use candle_core::{DType, Result, Tensor, bail};

use super::ops::Ops;
use crate::kernel::{Activation, GroupSums};

/// Normalises groups of channels over the whole picture (arXiv 1803.08494).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    ops: &'static dyn Ops,
    /// (c), as `bias`, in f32.
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) groups: usize,
    pub(super) eps: f64,
}

impl GroupNorm {
    /// Creates a norm with scale and shift (c); c must be a multiple of `groups`.
    pub fn new(
        ops: &'static dyn Ops,
        [weight, bias]: [Tensor; 2],
        groups: usize,
        eps: f64,
    ) -> Result<Self> {
        Ok(Self {
            ops,
            weight: weight.to_dtype(DType::F32)?,
            bias: bias.to_dtype(DType::F32)?,
            groups,
            eps,
        })
    }

    /// Normalises (b, .., c); statistics are computed in f32 or better.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.group_norm(x, self, Activation::Identity)
    }

    /// Normalises (b, .., c) and applies SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.group_norm(x, self, Activation::Silu)
    }

    /// The sums over x (b, .., c), pictures or the same part of each. The sums over all
    /// parts are the input of [`forward_silu_by`](Self::forward_silu_by).
    pub fn sums(&self, x: &Tensor) -> Result<GroupSums> {
        self.ops.group_sums(x, self)
    }

    /// Normalises a part x (b, .., c) of pictures by the sums over the whole pictures and
    /// applies SiLU, without gradients.
    pub fn forward_silu_by(&self, sums: &GroupSums, x: &Tensor) -> Result<Tensor> {
        if x.track_op() {
            bail!("a group norm with given sums does not support gradients");
        }
        self.ops.group_norm_by(sums, x, self, Activation::Silu)
    }
}

/// Normalises the last axis (arXiv 1607.06450).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    ops: &'static dyn Ops,
    /// (c), as `bias`, in f32.
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    /// Creates a norm with scale and shift (c).
    pub fn new(ops: &'static dyn Ops, [weight, bias]: [Tensor; 2], eps: f64) -> Result<Self> {
        Ok(Self {
            ops,
            weight: weight.to_dtype(DType::F32)?,
            bias: bias.to_dtype(DType::F32)?,
            eps,
        })
    }

    /// Normalises (.., c); statistics are computed in f32 or better.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.layer_norm(x, self)
    }
}
