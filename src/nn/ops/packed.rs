//! The CPU kernels. Frozen weights are packed; trained ones remain tensors, which the
//! kernels can differentiate.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use super::{AttentionMode, ConvWeight, LinearWeight, Ops, Packed, composed};
use crate::{
    kernel::{
        self, Activation, Arithmetic, ConvEpilogue, ConvGeometry, Epilogue, GroupSums,
        MergedWeight, PackedConv, PackedLinear, Sees, profile,
    },
    nn::{GroupNorm, LayerNorm, LayerWeight},
};

impl Ops for Packed {
    fn compute_dtype(&self, _: DType) -> DType {
        DType::F32
    }

    fn pack_linear(&self, weight: &LayerWeight) -> Result<LinearWeight> {
        if weight.is_tracked() {
            return self.merge(weight).map(LinearWeight::Plain);
        }
        let shape = weight.shape().dims2()?;
        let packed = self.read(weight, |weight| PackedLinear::of(weight, shape, self.0))?;
        Ok(LinearWeight::Packed(Arc::new(packed)))
    }

    fn pack_conv2d(&self, weight: &LayerWeight) -> Result<ConvWeight> {
        if weight.is_tracked() {
            return self.merge(weight).map(ConvWeight::Plain);
        }
        let (outputs, inputs, side, _) = weight.shape().dims4()?;
        let shape = (outputs, inputs, side);
        let packed = self.read(weight, |weight| PackedConv::of(weight, shape, self.0))?;
        Ok(ConvWeight::Packed(Arc::new(packed)))
    }

    fn pack_bias(&self, bias: Tensor) -> Result<Tensor> {
        match bias.track_op() {
            true => Ok(bias),
            false => bias.to_dtype(DType::F32),
        }
    }

    fn merge(&self, weight: &LayerWeight) -> Result<Tensor> {
        if weight.is_stored() {
            return weight.tensor();
        }
        let (shape, dtype) = (weight.shape(), weight.dtype());
        let merged = weight.with_values(|values| match weight.factors() {
            Some(factors) => kernel::add_product(values, factors, dtype),
            None => kernel::convert(values, dtype),
        });
        merged?.reshape(shape)
    }

    fn linear(&self, x: &Tensor, weight: &LinearWeight, epilogue: Epilogue) -> Result<Tensor> {
        let x = &x.contiguous()?;
        match weight {
            LinearWeight::Packed(weight) => {
                let about = |_: &Tensor| linear_about(x, weight);
                profile::of(about, || kernel::linear(x, weight, epilogue))
            }
            LinearWeight::Plain(weight) => {
                let none = Tensor::zeros(weight.dim(0)?, DType::F32, x.device())?;
                let bias = epilogue.bias.unwrap_or(&none);
                let y = kernel::linear_tracked(self.0, [x, weight, bias])?;
                added(y, epilogue.residual)
            }
        }
    }

    fn linear_geglu(
        &self,
        x: &Tensor,
        weight: &LinearWeight,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        match weight {
            LinearWeight::Packed(weight) if !x.track_op() && weight.fuses_geglu(rows(x)) => {
                let x = &x.contiguous()?;
                let about = |_: &Tensor| linear_about(x, weight);
                profile::of(about, || kernel::linear_geglu(x, weight, bias))
            }
            _ => self.geglu(&self.linear(x, weight, Epilogue::bias(bias))?),
        }
    }

    fn feed_forward(
        &self,
        x: &Tensor,
        [inner, outer]: [(&LinearWeight, Option<&Tensor>); 2],
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        if let (LinearWeight::Packed(first), LinearWeight::Packed(second)) = (inner.0, outer.0)
            && !x.track_op()
            && first.begins_feed_forward(rows(x))
        {
            let (x, residual) = (
                &x.contiguous()?,
                residual.map(Tensor::contiguous).transpose()?,
            );
            let about = |_: &Tensor| feed_forward_about(x, [first, second]);
            return profile::of(about, || {
                let biases = [inner.1, outer.1];
                kernel::feed_forward(x, [first, second], biases, residual.as_ref())
            });
        }
        let gated = self.linear_geglu(x, inner.0, inner.1)?;
        let bias = outer.1;
        self.linear(&gated, outer.0, Epilogue { bias, residual })
    }

    fn conv2d(
        &self,
        x: &Tensor,
        weight: &ConvWeight,
        geometry: ConvGeometry,
        epilogue: ConvEpilogue,
    ) -> Result<Tensor> {
        match weight {
            ConvWeight::Packed(weight) if !x.track_op() && !epilogue.is_tracked() => {
                let about = |y: &Tensor| conv_about(x, y, geometry);
                profile::of(about, || {
                    kernel::conv2d(&x.contiguous()?, weight, geometry, epilogue)
                })
            }
            _ => tracked_conv2d(self.0, x, weight, geometry, epilogue),
        }
    }

    fn norm_silu_conv2d(
        &self,
        x: &Tensor,
        norm: &GroupNorm,
        weight: &ConvWeight,
        geometry: ConvGeometry,
        epilogue: ConvEpilogue,
    ) -> Result<Tensor> {
        let affine = [&norm.weight, &norm.bias];
        let tracked = x.track_op() || affine.iter().any(|x| x.track_op()) || epilogue.is_tracked();
        match (weight, self.0) {
            // In f32 the norm is faster apart: Winograd's tiles overlap.
            (ConvWeight::Packed(weight), Arithmetic::Bf16(_)) if !tracked => {
                let about = |y: &Tensor| conv_about(x, y, geometry);
                profile::of(about, || {
                    let (x, norm) = (x.contiguous()?, (affine, norm.groups, norm.eps));
                    kernel::norm_silu_conv2d(&x, norm, weight, geometry, epilogue)
                })
            }
            _ => {
                let x = self.group_norm(x, norm, Activation::Silu)?;
                self.conv2d(&x, weight, geometry, epilogue)
            }
        }
    }

    fn group_norm(&self, x: &Tensor, norm: &GroupNorm, activation: Activation) -> Result<Tensor> {
        let (x, affine) = (x.contiguous()?, [&norm.weight, &norm.bias]);
        named("group norm", || {
            kernel::group_norm(&x, affine, norm.groups, norm.eps, activation)
        })
    }

    fn group_sums(&self, x: &Tensor, norm: &GroupNorm) -> Result<GroupSums> {
        kernel::group_sums(&x.contiguous()?, norm.groups)
    }

    fn group_norm_by(
        &self,
        sums: &GroupSums,
        x: &Tensor,
        norm: &GroupNorm,
        activation: Activation,
    ) -> Result<Tensor> {
        let (x, affine) = (x.contiguous()?, [&norm.weight, &norm.bias]);
        named("group norm", || {
            kernel::group_norm_by(sums, &x, affine, norm.eps, activation)
        })
    }

    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        named("layer norm", || {
            kernel::layer_norm(&x.contiguous()?, &norm.weight, &norm.bias, norm.eps)
        })
    }

    fn attention(
        &self,
        [q, k, v]: [&Tensor; 3],
        heads: usize,
        mode: AttentionMode,
    ) -> Result<Tensor> {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        if let Arithmetic::Bf16(unit) = self.0
            && ![&q, &k, &v].iter().any(|x| x.track_op())
        {
            let about = |_: &Tensor| attention_about(&q, &v, heads);
            let sees = match mode {
                AttentionMode::Full => Sees::All,
                AttentionMode::Causal => Sees::Earlier,
                AttentionMode::FirstRowsMaps => Sees::ThroughFirst,
            };
            return profile::of(about, || {
                kernel::attend_rounded(unit, [&q, &k, &v], heads, sees)
            });
        }
        // Gradients are those of products in f32.
        match mode {
            AttentionMode::Full => {
                let about = |_: &Tensor| attention_about(&q, &v, heads);
                profile::of(about, || kernel::attend(&q, &k, &v, heads))
            }
            AttentionMode::Causal => kernel::attend_causally(&q, &k, &v, heads),
            AttentionMode::FirstRowsMaps => kernel::attend_through_first(&q, &k, &v, heads),
        }
    }

    fn attention_maps(&self, q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
        kernel::attention_maps_in(self.0, &q.contiguous()?, &k.contiguous()?, heads)
    }

    fn read_maps(&self, maps: &Tensor, v: &Tensor) -> Result<Tensor> {
        kernel::read_maps_in(self.0, &maps.contiguous()?, &v.contiguous()?)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        kernel::activate(&x.contiguous()?, activation)
    }

    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        named("geglu", || kernel::geglu(&x.contiguous()?))
    }

    fn concat(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        named("concat", || {
            kernel::concat(&a.contiguous()?, &b.contiguous()?)
        })
    }
}

impl Packed {
    /// Calls `work` with a weight as it is packed: for products in bf16 as it is stored, with
    /// the factors of what is added; in f32 merged, without a copy if nothing changes it.
    fn read<R>(
        &self,
        weight: &LayerWeight,
        work: impl FnOnce(MergedWeight) -> Result<R>,
    ) -> Result<R> {
        let factors = weight.factors();
        match self.0 {
            Arithmetic::F32 if !weight.is_stored() => {
                kernel::with_values(&self.merge(weight)?, |values| work(values.into()))
            }
            _ => weight.with_values(|values| work(MergedWeight { values, factors })),
        }
    }
}

/// A differentiable convolution, by separate kernels.
fn tracked_conv2d(
    arithmetic: Arithmetic,
    x: &Tensor,
    weight: &ConvWeight,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let x = &match epilogue.upsample {
        Some((height, width)) => kernel::enlarge(&x, height, width)?,
        None => x,
    };
    let y = match (weight, epilogue.bias) {
        (ConvWeight::Packed(weight), bias) => {
            kernel::conv2d(x, weight, geometry, ConvEpilogue::bias(bias))?
        }
        (ConvWeight::Plain(weight), Some(bias)) => {
            kernel::conv2d_tracked(arithmetic, [x, weight, bias], geometry)?
        }
        (ConvWeight::ChannelsLast(_), _) => bail!("the weights belong to the CUDA kernels"),
        (ConvWeight::Plain(_), None) => bail!("a trained convolution must have a bias"),
    };
    added(
        composed::around(y, None, epilogue.shift, None)?,
        epilogue.residual,
    )
}

fn added(y: Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    match residual {
        Some(residual) => kernel::add(&y, &residual.contiguous()?),
        None => Ok(y),
    }
}

/// Profiles `work` under a name.
fn named(name: &str, work: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    profile::of(|_| (name.into(), 0.0), work)
}

/// The profile's name and the number of floating point operations of a linear layer.
fn linear_about(x: &Tensor, weight: &PackedLinear) -> (String, f64) {
    let rows = rows(x);
    (format!("linear of {rows} rows"), linear_flops(rows, weight))
}

fn linear_flops(rows: usize, weight: &PackedLinear) -> f64 {
    2.0 * (rows * weight.inputs() * weight.outputs()) as f64
}

/// The same for a feed-forward network.
fn feed_forward_about(x: &Tensor, layers: [&PackedLinear; 2]) -> (String, f64) {
    let flops = layers
        .map(|layer| linear_flops(rows(x), layer))
        .iter()
        .sum();
    (format!("feed-forward of {} rows", rows(x)), flops)
}

/// The same for a convolution of x to y.
fn conv_about(x: &Tensor, y: &Tensor, geometry: ConvGeometry) -> (String, f64) {
    let (_, height, width, _) = y.dims4().unwrap_or_default();
    let (side, inputs) = (geometry.side, x.dims()[3]);
    let name = format!("convolution {side}x{side} at {height}x{width}");
    (name, 2.0 * (side * side * inputs * y.elem_count()) as f64)
}

/// The same for an attention operation.
fn attention_about(q: &Tensor, v: &Tensor, heads: usize) -> (String, f64) {
    let (n, m) = (q.dims()[1], v.dims()[1]);
    let flops = 2.0 * (m * (q.elem_count() + n * v.elem_count() / m)) as f64;
    (format!("attention of {heads} x {n} to {m}"), flops)
}

/// Number of rows of x (.., inputs).
fn rows(x: &Tensor) -> usize {
    x.dims().iter().rev().skip(1).product()
}
