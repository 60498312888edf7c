//! Convolution of pictures (b, h, w, c).

pub(super) mod patches;
#[cfg(test)]
mod tests;
pub(super) mod winograd;

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{
    elementwise::total::sum_rows,
    epilogue::Epilogue,
    gemm::{
        Matrix,
        outer::{Listed, Samples, outer},
        packed::Packed,
        product,
    },
    op::{self, Gradients},
};
use patches::{ConvGeometry, Patches};

/// With fewer channels, patches are unfolded in memory.
const FEW: usize = 16;

/// Output pixels whose patches are unfolded at once.
const GATHERED: usize = 1 << 14;

/// The packed weights of a convolution.
#[derive(Debug)]
pub struct PackedConv {
    packed: Packed,
    inputs: usize,
    side: usize,
    adjoint: OnceLock<Box<PackedConv>>,
}

impl PackedConv {
    /// Packs weights (outputs, inputs, k, k) on a CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs, side, _) = weight.dims4()?;
        let taps = side * side;
        let place = |term, output| (output * inputs + term % inputs) * taps + term / inputs;
        let packed = Packed::new(weight, (taps * inputs, outputs), place)?;
        Ok(Self::holding(packed, inputs, side))
    }

    fn holding(packed: Packed, inputs: usize, side: usize) -> Self {
        Self {
            packed,
            inputs,
            side,
            adjoint: OnceLock::new(),
        }
    }

    /// The weights of the backward pass, with reversed taps, packed on first use.
    fn adjoint(&self) -> &Self {
        self.adjoint.get_or_init(|| {
            let (inputs, outputs, taps) = (self.inputs, self.outputs(), self.side * self.side);
            let from = |term: usize, input| {
                let tap = taps - 1 - term / outputs;
                (tap * inputs + input, term % outputs)
            };
            let packed = self.packed.rearranged((taps * outputs, inputs), from);
            Box::new(Self::holding(packed, outputs, self.side))
        })
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.packed.columns()
    }

    /// Overwrites `out` (b, height, width, outputs).
    fn convolve(&self, patches: &Patches, epilogue: Epilogue<[f32]>, out: &mut [f32]) {
        let (height, width) = patches.size();
        let pictures = out.len() / (height * width * self.outputs()).max(1);
        let pays = || winograd::pays(self.inputs, self.outputs(), pictures, (height, width));
        if patches.is_3x3() && pays() {
            return winograd::convolve(patches, &self.packed, epilogue, out);
        }
        if self.inputs >= FEW {
            return product(patches, &self.packed, epilogue, out);
        }
        let (columns, terms) = (self.outputs(), self.packed.terms());
        for (i, part) in out.chunks_mut(GATHERED * columns).enumerate() {
            let first = i * GATHERED;
            let rows = patches.unfold(first..first + part.len() / columns);
            let rows = Matrix {
                values: &rows,
                stride: terms,
                terms,
            };
            product(&rows, &self.packed, Epilogue::default(), part);
        }
        epilogue.add_to(out, columns);
    }

    fn check(&self, inputs: usize, window: ConvGeometry) -> Result<()> {
        if self.inputs != inputs || self.side != window.side {
            bail!(
                "conv2d: {inputs} channels for filters of {} channels and side {}",
                self.inputs,
                self.side
            );
        }
        Ok(())
    }
}

/// Convolves x (b, h, w, inputs) with packed weights: (b, height, width,
/// outputs). All f32, contiguous and on a CPU. Differentiable in x without residual and
/// upsampling.
pub fn conv2d(
    x: &Tensor,
    filters: &Arc<PackedConv>,
    window: ConvGeometry,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let (b, h, w, inputs) = x.dims4()?;
    filters.check(inputs, window)?;
    let (out, shape) = op::with([x], |[values]| {
        let patches = match epilogue.upsample {
            None => Patches::new(values, (h, w), inputs, window),
            Some(size) => Patches::enlarged(values, (h, w), size, inputs, window),
        };
        let ((height, width), outputs) = (patches.size(), filters.outputs());
        let shape = (b, height, width, outputs);
        let mut out = vec![0f32; b * height * width * outputs];
        epilogue.with(&shape.into(), |epilogue| {
            filters.convolve(&patches, epilogue, &mut out);
        })?;
        Ok((out, shape))
    })?;
    if x.track_op() && (epilogue.residual.is_some() || epilogue.upsample.is_some()) {
        bail!("conv2d is not differentiable with a residual or upsampling");
    }
    let filters = filters.clone();
    op::tracked("conv2d", [x], out, shape, move |[x], gradient| {
        let dx = input_gradient(gradient, filters.adjoint(), x, window);
        Ok([Some(dx?)])
    })
}

/// Convolves x (b, h, w, inputs) with `weight` (outputs, inputs, k, k) and adds
/// `bias` (outputs): (b, height, width, outputs). All f32, contiguous and on a
/// CPU; differentiable in all arguments.
pub fn conv2d_tracked(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    window: ConvGeometry,
) -> Result<Tensor> {
    let (b, h, w, inputs) = x.dims4()?;
    let filters = PackedConv::new(weight)?;
    filters.check(inputs, window)?;
    let outputs = filters.outputs();
    let shape = (b, window.output(h), window.output(w), outputs);
    let mut out = vec![0f32; shape.0 * shape.1 * shape.2 * shape.3];
    op::with([x, bias], |[x, bias]| {
        let patches = Patches::new(x, (h, w), inputs, window);
        filters.convolve(&patches, Epilogue::bias(Some(bias)), &mut out);
        Ok(())
    })?;
    op::tracked(
        "conv2d",
        [x, weight, bias],
        out,
        shape,
        move |args, gradient| backward(args, gradient, &filters, window),
    )
}

fn backward(
    [x, weight, bias]: [&Tensor; 3],
    gradient: &Tensor,
    filters: &PackedConv,
    window: ConvGeometry,
) -> Result<Gradients<3>> {
    let for_x = || input_gradient(gradient, filters.adjoint(), x, window);
    let for_weight = || weight_gradient(x, gradient, window);
    Ok([
        x.track_op().then(for_x).transpose()?,
        weight.track_op().then(for_weight).transpose()?,
        bias.track_op().then(|| sum_rows(gradient)).transpose()?,
    ])
}

/// The gradient of the input x from that of the output (b, height, width, outputs).
fn input_gradient(
    gradient: &Tensor,
    adjoint: &PackedConv,
    x: &Tensor,
    window: ConvGeometry,
) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let mut out = vec![0f32; x.elem_count()];
    op::with([gradient], |[gradient]| {
        let patches = Patches::adjoint(gradient, (h, w), adjoint.inputs, window);
        adjoint.convolve(&patches, Epilogue::default(), &mut out);
        op::tensor(out, x.shape())
    })
}

/// The gradient of the weights (outputs, inputs, k, k).
fn weight_gradient(x: &Tensor, gradient: &Tensor, window: ConvGeometry) -> Result<Tensor> {
    let (_, h, w, inputs) = x.dims4()?;
    let (b, height, width, outputs) = gradient.dims4()?;
    let side = window.side;
    let mut out = vec![0f32; side * side * inputs * outputs];
    op::with([x, gradient], |[x, gradient]| {
        let patches = Patches::new(x, (h, w), inputs, window);
        let taps = out.par_chunks_mut(inputs * outputs).enumerate();
        taps.for_each(|(tap, out)| {
            let patches = &patches;
            let inputs = Tap { patches, tap };
            let samples = b * height * width;
            outer(&inputs, &Listed(gradient, outputs), samples, outputs, out);
        });
        Ok(())
    })?;
    op::tensor(out, (side, side, inputs, outputs))?
        .permute((3, 2, 0, 1))?
        .contiguous()
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
}
