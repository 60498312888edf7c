//! Convolution of pictures (b, h, w, c).

pub(super) mod patches;
mod rounded;
#[cfg(test)]
mod tests;
pub(super) mod winograd;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use candle_core::{Result, Shape, Tensor, bail};

use super::{
    Activation,
    bf16::{
        Arithmetic, MergedWeight, OuterSums, Pairs, RightSide, Transposed, Unit, WeightShape,
        convolve,
        winograd::{self as rounded_winograd, LazyFilters},
    },
    elementwise::total::sum_rows,
    epilogue::{Addends, ConvEpilogue},
    gemm::{
        Matrix,
        outer::{Samples, outer},
        packed::PackedMatrix,
        product,
    },
    group_norm::{Affine, affines, group_norm},
    op,
    pages::unset,
    parts::each_part,
    stored::with_values,
};
use patches::{ConvGeometry, Patches};

/// With fewer channels, patches are unfolded in memory.
const FEW: usize = 16;

/// Output pixels whose patches are unfolded at once.
const GATHERED: usize = 1 << 14;

/// The packed weights of a convolution.
#[derive(Debug)]
pub struct PackedConv {
    packed: RightSide,
    inputs: usize,
    side: usize,
    adjoint: OnceLock<Box<PackedConv>>,
    /// The transformed filters, unless they are not worth it.
    filters: Option<LazyFilters>,
}

impl PackedConv {
    /// Packs weights (outputs, inputs, k, k) on a CPU, for products in f32.
    pub fn new(weight: &Tensor) -> Result<Self> {
        Self::packed(weight, Arithmetic::F32)
    }

    /// Packs weights (outputs, inputs, k, k) on a CPU.
    pub fn packed(weight: &Tensor, arithmetic: Arithmetic) -> Result<Self> {
        let (outputs, inputs, side, _) = weight.dims4()?;
        let shape = (outputs, inputs, side);
        with_values(weight, |values| Self::of(values.into(), shape, arithmetic))
    }

    /// Packs weights (outputs, inputs, side, side).
    pub fn of(
        weight: MergedWeight,
        (outputs, inputs, side): (usize, usize, usize),
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let shape = WeightShape {
            outputs,
            inputs,
            taps: side * side,
        };
        let packed = RightSide::of_weights(arithmetic, weight, shape)?;
        Ok(Self::holding(packed, inputs, side))
    }

    fn holding(packed: RightSide, inputs: usize, side: usize) -> Self {
        Self {
            packed,
            inputs,
            side,
            adjoint: OnceLock::new(),
            filters: Some(LazyFilters::default()),
        }
    }

    /// The same for a single use, for which filters are not worth transforming.
    fn used_once(self) -> Self {
        Self {
            filters: None,
            ..self
        }
    }

    /// The weights of the backward pass, with reversed taps, packed on first use.
    fn adjoint(&self) -> &Self {
        self.adjoint.get_or_init(|| {
            let (inputs, outputs, taps) = (self.inputs, self.outputs(), self.side * self.side);
            let packed = match &self.packed {
                RightSide::F32(packed) => {
                    let from = |term: usize, input| {
                        let tap = taps - 1 - term / outputs;
                        (tap * inputs + input, term % outputs)
                    };
                    packed.rearranged((taps * outputs, inputs), from).into()
                }
                RightSide::Bf16(unit, pairs) => {
                    let shape = WeightShape {
                        outputs,
                        inputs,
                        taps,
                    };
                    RightSide::Bf16(*unit, shape.turned(pairs))
                }
            };
            Box::new(Self::holding(packed, outputs, self.side))
        })
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.packed.columns()
    }

    /// Overwrites `out` (b, height, width, outputs).
    fn convolve(&self, patches: &Patches, addends: Addends, out: &mut [f32]) {
        match &self.packed {
            RightSide::F32(packed) => self.convolve_exactly(patches, packed, addends, out),
            RightSide::Bf16(unit, pairs) => {
                self.convolve_rounded((*unit, pairs), (patches, &[]), addends, out);
            }
        }
    }

    /// The same in bf16, of what is normalised before if there are norms.
    fn convolve_rounded(
        &self,
        (unit, pairs): (Unit, &Pairs),
        (patches, norms): (&Patches, &[Affine]),
        addends: Addends,
        out: &mut [f32],
    ) {
        match &self.filters {
            Some(filters) if rounded_winograd::pays(unit, patches, self.outputs()) => {
                let filters = (filters, pairs);
                rounded_winograd::convolve(unit, (patches, norms), filters, addends, out);
            }
            _ => convolve(unit, (patches, norms), pairs, addends, out),
        }
    }

    /// The same in f32.
    fn convolve_exactly(
        &self,
        patches: &Patches,
        packed: &PackedMatrix,
        addends: Addends,
        out: &mut [f32],
    ) {
        let pays = winograd::pays(self.inputs, self.outputs(), patches.size());
        if patches.is_3x3() && pays {
            return winograd::convolve(patches, packed, addends, out);
        }
        if self.inputs >= FEW {
            return product(patches, packed, addends, out);
        }
        let (columns, terms) = (self.outputs(), packed.terms());
        for (i, part) in out.chunks_mut(GATHERED * columns).enumerate() {
            let first = i * GATHERED;
            let rows = patches.unfold(first..first + part.len() / columns);
            let rows = Matrix::contiguous(&rows, terms);
            product(&rows, packed, Addends::default(), part);
        }
        addends.add_to(out, columns);
    }
}

/// Convolves x (b, h, w, inputs) with packed weights: (b, height, width,
/// outputs). All f32, contiguous and on a CPU. Differentiable in x without residual and
/// upsampling.
pub fn conv2d(
    x: &Tensor,
    weight: &Arc<PackedConv>,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
) -> Result<Tensor> {
    if x.track_op() && (epilogue.residual.is_some() || epilogue.upsample.is_some()) {
        bail!("conv2d is not differentiable with a residual or upsampling");
    }
    let (out, shape) = forward(x, weight, geometry, epilogue)?;
    let weight = weight.clone();
    op::tracked("conv2d", [x], out, shape, move |[x], gradient| {
        let for_x = || input_gradient(gradient, weight.adjoint(), x, geometry);
        Ok([op::if_tracked(x, for_x)?])
    })
}

/// [`conv2d`] of the SiLU of a group norm of x, whose weight and bias (inputs) are `affine`.
/// Not differentiable.
pub fn norm_silu_conv2d(
    x: &Tensor,
    (affine, groups, eps): ([&Tensor; 2], usize, f64),
    weight: &PackedConv,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
) -> Result<Tensor> {
    op::untracked("a fused convolution", &[x, affine[0], affine[1]])?;
    let RightSide::Bf16(unit, pairs) = &weight.packed else {
        let x = group_norm(x, affine, groups, eps, Activation::Silu)?;
        let (out, shape) = forward(&x, weight, geometry, epilogue)?;
        return op::tensor(out, shape);
    };
    let norms = affines(x, affine, groups, eps)?;
    let (out, shape) = computed(x, weight, geometry, epilogue, |patches, addends, out| {
        weight.convolve_rounded((*unit, pairs), (patches, &norms), addends, out);
    })?;
    op::tensor(out, shape)
}

/// Convolves x (b, h, w, inputs) with `weight` (outputs, inputs, k, k) and adds
/// `bias` (outputs): (b, height, width, outputs). All f32, contiguous and on a
/// CPU; differentiable in all arguments. The products of both passes are in `arithmetic`.
pub fn conv2d_tracked(
    arithmetic: Arithmetic,
    [x, weight, bias]: [&Tensor; 3],
    geometry: ConvGeometry,
) -> Result<Tensor> {
    let packed = PackedConv::packed(weight, arithmetic)?.used_once();
    let (out, shape) = forward(x, &packed, geometry, ConvEpilogue::bias(Some(bias)))?;
    let backward = move |[x, weight, bias]: [&Tensor; 3], gradient: &Tensor| {
        let for_x = || match arithmetic {
            Arithmetic::F32 => input_gradient(gradient, packed.adjoint(), x, geometry),
            Arithmetic::Bf16(unit) => {
                let outputs = packed.outputs();
                let shape = WeightShape {
                    outputs,
                    inputs: packed.inputs,
                    taps: geometry.side * geometry.side,
                };
                let packed = RightSide::Bf16(unit, shape.backward(weight)?);
                let adjoint = PackedConv::holding(packed, outputs, geometry.side).used_once();
                input_gradient(gradient, &adjoint, x, geometry)
            }
        };
        let for_weight = || match arithmetic {
            Arithmetic::F32 => weight_gradient(x, gradient, geometry),
            Arithmetic::Bf16(unit) => rounded_weight_gradient(unit, x, gradient, geometry),
        };
        Ok([
            op::if_tracked(x, for_x)?,
            op::if_tracked(weight, for_weight)?,
            op::if_tracked(bias, || sum_rows(gradient))?,
        ])
    };
    op::tracked("conv2d", [x, weight, bias], out, shape, backward)
}

/// The output and its shape.
fn forward(
    x: &Tensor,
    weight: &PackedConv,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
) -> Result<(Vec<f32>, Shape)> {
    computed(x, weight, geometry, epilogue, |patches, addends, out| {
        weight.convolve(patches, addends, out);
    })
}

/// The output that `compute` makes of the patches, and its shape.
fn computed(
    x: &Tensor,
    weight: &PackedConv,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
    compute: impl FnOnce(&Patches, Addends, &mut [f32]),
) -> Result<(Vec<f32>, Shape)> {
    let dims @ (b, .., inputs) = x.dims4()?;
    if (weight.inputs, weight.side) != (inputs, geometry.side) {
        bail!(
            "conv2d: {inputs} channels for weights of {} channels and side {}",
            weight.inputs,
            weight.side
        );
    }
    op::with([x], |[x]| {
        let patches = Patches::new(x, dims, epilogue.upsample, geometry);
        let (height, width) = patches.size();
        let shape = Shape::from((b, height, width, weight.outputs()));
        let mut out = unset(shape.elem_count());
        epilogue.with(&shape, |addends| compute(&patches, addends, &mut out))?;
        Ok((out, shape))
    })
}

/// The gradient of the input x from that of the output (b, height, width, outputs).
fn input_gradient(
    gradient: &Tensor,
    adjoint: &PackedConv,
    x: &Tensor,
    geometry: ConvGeometry,
) -> Result<Tensor> {
    let ((_, h, w, _), shape) = (x.dims4()?, gradient.dims4()?);
    let mut out = unset(x.elem_count());
    op::with([gradient], |[gradient]| {
        let patches = Patches::adjoint(gradient, shape, (h, w), geometry);
        adjoint.convolve(&patches, Addends::default(), &mut out);
        op::tensor(out, x.shape())
    })
}

/// The gradient of the weights (outputs, inputs, k, k).
fn weight_gradient(x: &Tensor, gradient: &Tensor, geometry: ConvGeometry) -> Result<Tensor> {
    let dims @ (.., inputs) = x.dims4()?;
    let (b, height, width, outputs) = gradient.dims4()?;
    let side = geometry.side;
    let mut out = vec![0f32; side * side * inputs * outputs];
    op::with([x, gradient], |[x, gradient]| {
        let patches = Patches::new(x, dims, None, geometry);
        let gradient = Matrix::contiguous(gradient, outputs);
        each_part(&mut out, inputs * outputs, &|tap, out| {
            let patches = &patches;
            let inputs = Tap { patches, tap };
            let samples = b * height * width;
            outer(&inputs, &gradient, samples, outputs, out);
        });
        Ok(())
    })?;
    op::tensor(out, (side, side, inputs, outputs))?
        .permute((3, 2, 0, 1))?
        .contiguous()
}

/// The same in bf16.
fn rounded_weight_gradient(
    unit: Unit,
    x: &Tensor,
    gradient: &Tensor,
    geometry: ConvGeometry,
) -> Result<Tensor> {
    let dims @ (.., inputs) = x.dims4()?;
    let (b, height, width, outputs) = gradient.dims4()?;
    let (side, taps) = (geometry.side, geometry.side * geometry.side);
    let sums = op::with([x, gradient], |[x, gradient]| {
        let patches = &Patches::new(x, dims, None, geometry);
        let gradient = Matrix::contiguous(gradient, outputs);
        let gradient = Transposed::new(gradient, b * height * width);
        let x: Vec<_> = (0..taps).map(|tap| Tap { patches, tap }).collect();
        Ok(OuterSums::new(unit, &gradient, &x, inputs))
    })?;
    let value = |i: usize| {
        let (output, input) = (i / taps / inputs, i / taps % inputs);
        sums.at(i % taps, output, input)
    };
    let values = (0..outputs * inputs * taps).map(value).collect();
    op::tensor(values, (outputs, inputs, side, side))
}

/// The inputs of one tap.
struct Tap<'a> {
    patches: &'a Patches<'a>,
    tap: usize,
}

impl Samples for Tap<'_> {
    #[inline(always)]
    fn sample(&self, sample: usize) -> &[f32] {
        self.patches.pixel(sample, self.tap)
    }

    fn samples(&self, samples: Range<usize>) -> Vec<&[f32]> {
        self.patches.pixels(samples, self.tap).collect()
    }
}
