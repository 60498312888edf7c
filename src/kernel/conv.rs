//! Convolution of pictures whose channels lie side by side, (b, h, w, c).

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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::{super::patches::nearest, *};

    fn waves(shape: (usize, usize, usize, usize), phase: f64) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let wave = |i| ((i as f64 * 0.73 + phase).sin() * 2.0) as f32;
        Tensor::from_vec((0..count).map(wave).collect(), shape, &Device::Cpu).unwrap()
    }

    /// candle's convolution, in f64.
    fn plain(x: &Tensor, weight: &Tensor, window: Window) -> Tensor {
        let x = x.to_dtype(DType::F64).unwrap().permute((0, 3, 1, 2));
        let Window {
            stride,
            before,
            after,
            ..
        } = window;
        let x = x.unwrap().pad_with_zeros(2, before, after).unwrap();
        let x = x.pad_with_zeros(3, before, after).unwrap();
        let weight = weight.to_dtype(DType::F64).unwrap();
        let y = x.conv2d(&weight, 0, stride, 1, 1).unwrap();
        y.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.dims(), b.dims());
        let gap = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
        gap.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    const HALVING: Window = Window {
        side: 3,
        stride: 2,
        before: 1,
        after: 1,
    };

    const LOPSIDED: Window = Window {
        side: 3,
        stride: 2,
        before: 0,
        after: 1,
    };

    /// (window, b, inputs, outputs, h, w)
    fn cases() -> Vec<(Window, usize, usize, usize, usize, usize)> {
        vec![
            (Window::same(3), 1, 1, 1, 1, 1),
            (Window::same(3), 2, 5, 3, 7, 4),
            (Window::same(3), 1, 33, 17, 31, 40),
            (Window::same(3), 8, 20, 36, 3, 3),
            (Window::same(1), 3, 130, 9, 5, 6),
            (Window::same(5), 1, 2, 2, 3, 9),
            (Window::same(3), 2, 64, 65, 13, 14),
            (Window::same(3), 1, 80, 128, 34, 70),
            (Window::same(3), 7, 64, 50, 15, 7),
            (Window::same(3), 3, 96, 33, 16, 8),
            (HALVING, 1, 4, 8, 9, 13),
            (HALVING, 2, 17, 5, 1, 2),
            (LOPSIDED, 1, 12, 7, 8, 6),
            (LOPSIDED, 1, 2, 2, 2, 34),
        ]
    }

    #[test]
    fn it_equals_the_definition_for_many_shapes() {
        for (window, b, inputs, outputs, h, w) in cases() {
            let x = waves((b, h, w, inputs), 0.3);
            let weight = waves((outputs, inputs, window.side, window.side), 1.1);
            let filters = Arc::new(Filters::new(&weight).unwrap());
            let y = conv2d(&x, &filters, window, Around::default()).unwrap();
            let scale = (inputs * window.side * window.side) as f64;
            let gap = gap(&y, &plain(&x, &weight, window)) / scale;
            assert!(
                gap < 1e-6,
                "{window:?} {b} {inputs} {outputs} {h}x{w}: {gap}"
            );
        }
    }

    #[test]
    fn an_enlarged_input_needs_no_copy() {
        let (x, weight) = (waves((2, 3, 5, 20), 0.3), waves((7, 20, 3, 3), 1.1));
        let pick = |at: Vec<usize>| {
            let at: Vec<_> = at.into_iter().map(|i| i as u32).collect();
            Tensor::new(at, &Device::Cpu).unwrap()
        };
        let copied = x.index_select(&pick(nearest(3, 7)), 1).unwrap();
        let copied = copied.index_select(&pick(nearest(5, 10)), 2).unwrap();
        let filters = Arc::new(Filters::new(&weight).unwrap());
        let around = Around {
            enlarged: Some((7, 10)),
            ..Around::default()
        };
        let window = Window::same(3);
        let fused = conv2d(&x, &filters, window, around).unwrap();
        let apart = conv2d(&copied, &filters, window, Around::default()).unwrap();
        assert!(gap(&fused, &apart) < 1e-6);
    }

    #[test]
    fn biases_and_residuals_are_added() {
        let (x, weight) = (waves((2, 3, 5, 4), 0.3), waves((7, 4, 3, 3), 1.1));
        let (bias, residual) = (waves((2, 1, 1, 7), 0.), waves((2, 3, 5, 7), 2.));
        let filters = Arc::new(Filters::new(&weight).unwrap());
        let per_picture = bias.reshape((2, 7)).unwrap();
        let around = Around {
            bias: Some(&per_picture),
            residual: Some(&residual),
            enlarged: None,
        };
        let y = conv2d(&x, &filters, Window::same(3), around).unwrap();
        let expected = plain(&x, &weight, Window::same(3));
        let to_f64 = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let expected = expected.broadcast_add(&to_f64(&bias)).unwrap();
        assert!(gap(&y, &(expected + to_f64(&residual)).unwrap()) < 1e-4);
    }

    fn dot(a: &Tensor, b: &Tensor) -> f64 {
        let to_f64 = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let sum = (to_f64(a) * to_f64(b)).unwrap().sum_all().unwrap();
        sum.to_scalar().unwrap()
    }

    /// A convolution is linear in its input and in its weights, so that a step
    /// in any direction changes the loss by exactly gradient times direction.
    #[test]
    fn gradients_tell_the_change_in_any_direction() {
        for (window, b, inputs, outputs, h, w) in cases() {
            let var = |x: Tensor| Var::from_tensor(&x).unwrap();
            let (x_shape, w_shape) = (
                (b, h, w, inputs),
                (outputs, inputs, window.side, window.side),
            );
            let (x, weight) = (var(waves(x_shape, 0.3)), var(waves(w_shape, 1.1)));
            let bias = var(waves((1, 1, 1, outputs), 0.5).flatten_all().unwrap());
            let y = conv2d_tracked(&x, &weight, &bias, window).unwrap();
            let slope = waves(y.dims4().unwrap(), 0.9); // of the loss sum(y * slope)
            let loss = (y * &slope).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let gradient = |var: &Var| gradients.get(var).unwrap().clone();
            for phase in [0.1, 2.3, 4.7] {
                let (dx, dw) = (waves(x_shape, phase), waves(w_shape, phase));
                for (found, change) in [
                    (dot(&gradient(&x), &dx), plain(&dx, &weight, window)),
                    (dot(&gradient(&weight), &dw), plain(&x, &dw, window)),
                ] {
                    let expected = dot(&change, &slope);
                    let gap = (found - expected).abs() / dot(&slope, &slope);
                    assert!(
                        gap < 1e-5,
                        "{window:?} {b} {inputs} {outputs} {h}x{w}: {gap}"
                    );
                }
            }
            let per_channel = slope.flatten_to(2).unwrap().sum(0).unwrap();
            assert!(gap(&gradient(&bias), &per_channel) < 1e-4);
        }
    }

    #[test]
    fn wrong_filters_are_refused() {
        let window = Window::same(3);
        for weight in [waves((2, 4, 3, 3), 0.), waves((2, 3, 1, 1), 0.)] {
            let filters = Arc::new(Filters::new(&weight).unwrap());
            assert!(
                conv2d(
                    &waves((1, 4, 4, 3), 0.),
                    &filters,
                    window,
                    Around::default()
                )
                .is_err()
            );
        }
    }
}
