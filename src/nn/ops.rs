//! The operations of layers, and the backends that implement them.
//!
//! A layer is given one backend when it is read ([`Placement::ops`]). Operations that a
//! backend does not override are composed of candle's operations, which work on every
//! device. The memory layout of weights and the gradients are the backend's choice.
//! Pictures are (b, h, w, c), sequences (b, n, c).
//!
//! [`Placement::ops`]: super::Placement::ops

mod composed;
#[cfg(test)]
mod conformance;
#[cfg(feature = "cuda")]
mod cuda;
mod metal;
mod packed;

use std::{fmt::Debug, sync::Arc};

use candle_core::{DType, Result, Tensor};

pub use composed::upsample_nearest;

use super::{GroupNorm, LayerNorm, LayerWeight};
use crate::kernel::{
    Activation, Arithmetic, ConvEpilogue, ConvGeometry, Epilogue, GroupSums, PackedConv,
    PackedLinear,
};

/// candle's operations, in the type of their arguments, sums in f32.
#[derive(Debug)]
pub struct Composed;

/// The CPU kernels, with activations in f32. Products are in an arithmetic.
#[derive(Debug)]
pub struct Packed(pub Arithmetic);

impl Packed {
    /// Products in f32, of weights of any type.
    pub const F32: Self = Self(Arithmetic::F32);
}

/// The CUDA kernels in f16 and bf16, and for norms in f32; candle's operations for what they
/// do not take.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub struct Cuda;

/// candle's operations, with its fused kernels for Metal where they fit.
#[derive(Debug)]
pub struct Metal;

/// The weights of a linear layer in a backend's layout.
#[derive(Clone, Debug)]
pub enum LinearWeight {
    /// (outputs, inputs).
    Plain(Tensor),
    /// In the layout of the CPU kernels.
    Packed(Arc<PackedLinear>),
}

/// The weights of a convolution in a backend's layout.
#[derive(Clone, Debug)]
pub enum ConvWeight {
    /// (outputs, inputs, k, k).
    Plain(Tensor),
    /// (outputs, k, k, inputs), where zeros may follow the inputs.
    ChannelsLast(Tensor),
    /// In the layout of the CPU kernels.
    Packed(Arc<PackedConv>),
}

/// The maps of an attention operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMode {
    /// Each row's own maps.
    Full,
    /// Each row's own maps, masked to the keys up to each query's position.
    Causal,
    /// The maps of the batch's first row, applied to the values of every row.
    FirstRowsMaps,
}

/// The operations of a backend.
pub trait Ops: Debug + Send + Sync {
    /// The type of the activations between layers, for weights stored in `dtype`.
    fn compute_dtype(&self, dtype: DType) -> DType {
        dtype
    }

    /// Converts the weights (outputs, inputs) of a linear layer for
    /// [`linear`](Self::linear).
    fn pack_linear(&self, weight: &LayerWeight) -> Result<LinearWeight> {
        self.merge(weight).map(LinearWeight::Plain)
    }

    /// The weights of several linear layers as those of one with all outputs, or `None` if
    /// one layer is not faster.
    fn join_linear(&self, _weights: &[&LinearWeight]) -> Result<Option<LinearWeight>> {
        Ok(None)
    }

    /// Converts the weights (outputs, inputs, k, k) of a convolution for
    /// [`conv2d`](Self::conv2d).
    fn pack_conv2d(&self, weight: &LayerWeight) -> Result<ConvWeight> {
        self.merge(weight).map(ConvWeight::Plain)
    }

    /// Converts a bias (outputs) for both.
    fn pack_bias(&self, bias: Tensor) -> Result<Tensor> {
        Ok(bias)
    }

    /// A weight in its type, with what is to be added: added in f32 and rounded once. Where
    /// products are of rounded operands, [`pack_linear`](Self::pack_linear) and
    /// [`pack_conv2d`](Self::pack_conv2d) may round the factors, too.
    fn merge(&self, weight: &LayerWeight) -> Result<Tensor> {
        let tensor = weight.tensor()?;
        let Some([up, down]) = weight.factors() else {
            return tensor.to_dtype(weight.dtype());
        };
        let product = up.matmul(down)?.reshape(tensor.shape())?;
        (tensor.to_dtype(DType::F32)? + product)?.to_dtype(weight.dtype())
    }

    /// x (.., inputs) to (.., outputs).
    fn linear(&self, x: &Tensor, weight: &LinearWeight, epilogue: Epilogue) -> Result<Tensor> {
        composed::linear(x, weight, epilogue)
    }

    /// A linear layer followed by [`geglu`](Self::geglu): x (.., inputs) to (.., d).
    fn linear_geglu(
        &self,
        x: &Tensor,
        weight: &LinearWeight,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.geglu(&self.linear(x, weight, Epilogue::bias(bias))?)
    }

    /// The feed-forward network of a transformer: [`linear_geglu`](Self::linear_geglu) of x by
    /// the first layer's weight and bias, then a linear layer with the second's, onto a residual.
    fn feed_forward(
        &self,
        x: &Tensor,
        [inner, outer]: [(&LinearWeight, Option<&Tensor>); 2],
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let gated = self.linear_geglu(x, inner.0, inner.1)?;
        let bias = outer.1;
        self.linear(&gated, outer.0, Epilogue { bias, residual })
    }

    /// x (b, h, w, inputs) to (b, height, width, outputs).
    fn conv2d(
        &self,
        x: &Tensor,
        weight: &ConvWeight,
        geometry: ConvGeometry,
        epilogue: ConvEpilogue,
    ) -> Result<Tensor> {
        composed::conv2d(x, weight, geometry, epilogue)
    }

    /// [`conv2d`](Self::conv2d) of the SiLU of a group norm of x.
    fn norm_silu_conv2d(
        &self,
        x: &Tensor,
        norm: &GroupNorm,
        weight: &ConvWeight,
        geometry: ConvGeometry,
        epilogue: ConvEpilogue,
    ) -> Result<Tensor> {
        let x = self.group_norm(x, norm, Activation::Silu)?;
        self.conv2d(&x, weight, geometry, epilogue)
    }

    /// Normalises groups of channels of x (b, .., c), statistics in f32 or better.
    fn group_norm(&self, x: &Tensor, norm: &GroupNorm, activation: Activation) -> Result<Tensor> {
        self.activate(&composed::group_norm(x, norm)?, activation)
    }

    /// The sums over x (b, .., c), pictures or the same part of each.
    fn group_sums(&self, x: &Tensor, norm: &GroupNorm) -> Result<GroupSums> {
        composed::group_sums(x, norm)
    }

    /// [`group_norm`](Self::group_norm) of a part of each picture by the sums over
    /// the whole pictures, without gradients.
    fn group_norm_by(
        &self,
        sums: &GroupSums,
        x: &Tensor,
        norm: &GroupNorm,
        activation: Activation,
    ) -> Result<Tensor> {
        self.activate(&composed::group_norm_by(sums, x, norm)?, activation)
    }

    /// Normalises the last axis of x (.., c), statistics in f32 or better.
    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        composed::layer_norm(x, norm)
    }

    /// Multi-head attention (arXiv 1706.03762) of queries (b, n, c), keys (b, m, c) and
    /// values (b, m, e), the heads concatenated: (b, n, e). The maps are never complete in
    /// memory.
    fn attention(
        &self,
        [q, k, v]: [&Tensor; 3],
        heads: usize,
        mode: AttentionMode,
    ) -> Result<Tensor> {
        composed::attention([q, k, v], heads, mode)
    }

    /// The attention maps (b, heads, n, m) of queries (b, n, c) and keys (b, m, c), after
    /// softmax.
    fn attention_maps(&self, q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
        composed::attention_maps(q, k, heads)
    }

    /// Applies maps (b, heads, n, m) to values (b, m, e): (b, n, e).
    fn read_maps(&self, maps: &Tensor, v: &Tensor) -> Result<Tensor> {
        composed::read_maps(maps, v)
    }

    /// Applies an activation function.
    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        composed::activate(x, activation)
    }

    /// The first half of (.., 2 c) times the exact GELU of the second: (.., c) (GEGLU,
    /// arXiv 2002.05202).
    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        composed::geglu(x)
    }

    /// Concatenates (.., a) and (.., b): (.., a + b).
    fn concat(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        composed::concat(a, b)
    }
}

impl Ops for Composed {}
