//! Convolution of pictures whose channels lie side by side, (b, h, w, c).

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{
    op::{self, Gradients},
    outer::{Listed, Samples, outer},
    packed::Packed,
    patches::{Patches, Window},
    product::{Matrix, Plus, product},
    total::sum_rows,
    winograd,
};

/// With fewer channels than these, the terms of a row are gathered first.
const FEW: usize = 16;

/// Output pixels whose terms are gathered at once.
const GATHERED: usize = 1 << 14;

/// The weights of a convolution, packed.
#[derive(Debug)]
pub struct Filters {
    packed: Packed,
    inputs: usize,
    side: usize,
    adjoint: OnceLock<Box<Filters>>,
}

impl Filters {
    /// Packs weights (outputs, inputs, k, k), on a CPU.
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

    /// The weights through which gradients walk back, their taps from the last to
    /// the first, packed when first needed.
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

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.packed.columns()
    }

    /// Overwrites `out` (b, height, width, outputs) with what a window sees.
    fn convolve(&self, patches: &Patches, plus: Plus, out: &mut [f32]) {
        let (height, width) = patches.size();
        let pictures = out.len() / (height * width * self.outputs()).max(1);
        let pays = || winograd::pays(self.inputs, self.outputs(), pictures, (height, width));
        if patches.is_3x3() && pays() {
            return winograd::convolve(patches, &self.packed, plus, out);
        }
        if self.inputs >= FEW {
            return product(patches, &self.packed, plus, out);
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
            product(&rows, &self.packed, Plus::default(), part);
        }
        plus.add_to(out, columns);
    }

    fn check(&self, inputs: usize, window: Window) -> Result<()> {
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

/// What surrounds a convolution.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around<'a> {
    /// A bias per output channel (outputs), or one for each picture (b, outputs).
    pub bias: Option<&'a Tensor>,
    /// Values of the output's shape, added to it.
    pub residual: Option<&'a Tensor>,
    /// The size that the input is enlarged to before, by repeating the nearest value.
    pub enlarged: Option<(usize, usize)>,
}

/// Convolves x (b, h, w, inputs) with packed weights: (b, height, width,
/// outputs). All f32, contiguous and on a CPU. A tracked x gets its gradient
/// where nothing surrounds the convolution but a bias.
pub fn conv2d(
    x: &Tensor,
    filters: &Arc<Filters>,
    window: Window,
    around: Around,
) -> Result<Tensor> {
    let (b, h, w, inputs) = x.dims4()?;
    filters.check(inputs, window)?;
    let (out, shape) = op::with([x], |[values]| {
        let patches = match around.enlarged {
            None => Patches::new(values, (h, w), inputs, window),
            Some(size) => Patches::enlarged(values, (h, w), size, inputs, window),
        };
        let ((height, width), outputs) = (patches.size(), filters.outputs());
        let shape = (b, height, width, outputs);
        let mut out = vec![0f32; b * height * width * outputs];
        Plus::with(around.bias, around.residual, &shape.into(), |plus| {
            filters.convolve(&patches, plus, &mut out);
        })?;
        Ok((out, shape))
    })?;
    if x.track_op() && (around.residual.is_some() || around.enlarged.is_some()) {
        bail!("conv2d: no gradient flows through a residual or an enlarged input");
    }
    let filters = filters.clone();
    op::tracked("conv2d", [x], out, shape, move |[x], gradient| {
        Ok([Some(input_gradient(
            gradient,
            filters.adjoint(),
            x,
            window,
        )?)])
    })
}

/// Convolves x (b, h, w, inputs) with `weight` (outputs, inputs, k, k) and adds
/// `bias` (outputs): (b, height, width, outputs). All f32, contiguous and on a
/// CPU; every tracked one gets its gradient.
pub fn conv2d_tracked(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    window: Window,
) -> Result<Tensor> {
    let (b, h, w, inputs) = x.dims4()?;
    let filters = Filters::new(weight)?;
    filters.check(inputs, window)?;
    let outputs = filters.outputs();
    let shape = (b, window.output(h), window.output(w), outputs);
    let mut out = vec![0f32; shape.0 * shape.1 * shape.2 * shape.3];
    op::with([x, bias], |[x, bias]| {
        let plus = Plus {
            bias: Some(bias),
            residual: None,
        };
        filters.convolve(&Patches::new(x, (h, w), inputs, window), plus, &mut out);
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
    filters: &Filters,
    window: Window,
) -> Result<Gradients<3>> {
    let for_x = || input_gradient(gradient, filters.adjoint(), x, window);
    let for_weight = || weight_gradient(x, gradient, window);
    Ok([
        x.track_op().then(for_x).transpose()?,
        weight.track_op().then(for_weight).transpose()?,
        bias.track_op().then(|| sum_rows(gradient)).transpose()?,
    ])
}

/// What a gradient (b, height, width, outputs) means for the input, which had
/// the shape of `x`.
fn input_gradient(
    gradient: &Tensor,
    adjoint: &Filters,
    x: &Tensor,
    window: Window,
) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let mut out = vec![0f32; x.elem_count()];
    op::with([gradient], |[gradient]| {
        let patches = Patches::adjoint(gradient, (h, w), adjoint.inputs, window);
        adjoint.convolve(&patches, Plus::default(), &mut out);
        op::tensor(out, x.shape())
    })
}

/// What it means for the weights: (outputs, inputs, k, k).
fn weight_gradient(x: &Tensor, gradient: &Tensor, window: Window) -> Result<Tensor> {
    let (_, h, w, inputs) = x.dims4()?;
    let (b, height, width, outputs) = gradient.dims4()?;
    let side = window.side;
    let mut out = vec![0f32; side * side * inputs * outputs];
    op::with([x, gradient], |[x, gradient]| {
        let patches = Patches::new(x, (h, w), inputs, window);
        let taps = out.par_chunks_mut(inputs * outputs).enumerate();
        taps.for_each(|(tap, out)| {
            let seen = Tap {
                patches: &patches,
                tap,
            };
            let samples = b * height * width;
            outer(&seen, &Listed(gradient, outputs), samples, outputs, out);
        });
        Ok(())
    })?;
    op::tensor(out, (side, side, inputs, outputs))?
        .permute((3, 2, 0, 1))?
        .contiguous()
}

/// What one tap sees.
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
