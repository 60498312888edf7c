//! Convolution and nearest upsampling of pictures (b, h, w, c).

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::{LowRank, add, lowrank::Beside, on_cpu};
use crate::kernel::{self, Around, Filters, Window, nearest, profile};

/// How a 3x3 convolution walks over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stride {
    /// Every position; the size is kept.
    One,
    /// Every second position; the size is halved, rounded up.
    Two,
    /// Every second position with the border added below and right only, as
    /// the autoencoder's downsampling does; the size is halved, rounded down.
    TwoLopsided,
}

impl Stride {
    fn window(self, side: usize) -> Window {
        let same = Window::same(side);
        match self {
            Self::One => same,
            Self::Two => Window { stride: 2, ..same },
            Self::TwoLopsided => Window {
                stride: 2,
                before: 0,
                ..same
            },
        }
    }
}

/// A two-dimensional convolution over (b, h, w, c).
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    bias: Tensor,
    window: Window,
    change: Option<Box<Beside<Self>>>,
}

#[derive(Clone, Debug)]
enum Weight {
    /// Frozen, on a CPU.
    Packed(Arc<Filters>),
    /// Trained, or elsewhere.
    Plain(Tensor),
}

/// What is done around a convolution.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Added to every pixel of a picture (b, outputs).
    pub shift: Option<&'a Tensor>,
    /// Added to the output, of its shape.
    pub residual: Option<&'a Tensor>,
    /// The height and width that the input is enlarged to before.
    pub enlarged: Option<(usize, usize)>,
}

impl Conv2d {
    /// A convolution of weight (outputs, inputs, k, k), k odd, padded to keep
    /// the size at stride one.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: Stride) -> Result<Self> {
        let (outputs, _, side, _) = weight.dims4()?;
        let bias = match bias {
            Some(bias) => bias,
            None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
        };
        let frozen = weight.device().is_cpu() && !weight.track_op();
        Ok(Self {
            bias: if frozen {
                bias.to_dtype(DType::F32)?
            } else {
                bias
            },
            weight: match frozen {
                true => Weight::Packed(Arc::new(Filters::new(&weight)?)),
                false => Weight::Plain(weight),
            },
            window: stride.window(side),
            change: None,
        })
    }

    /// The same convolution with a low-rank change computed beside it: one to
    /// fewer channels that walks as this one does, then a map to the outputs.
    /// The weight is shared with this layer, and the change may be trained.
    pub fn with_change(&self, change: &LowRank) -> Result<Self> {
        let mut down = Self::new(change.down.clone(), None, Stride::One)?;
        down.window = self.window;
        Ok(Self {
            change: Some(Box::new(Beside::new(down, change)?)),
            ..self.clone()
        })
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// Convolves (b, h, w, inputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Extras::default())
    }

    /// Convolves (b, h, w, inputs) with what surrounds it.
    pub fn forward_with(&self, x: &Tensor, extras: Extras) -> Result<Tensor> {
        let Some(change) = &self.change else {
            return self.weighted(x, extras);
        };
        let seen = Extras {
            enlarged: extras.enlarged,
            ..Extras::default()
        };
        let onto = change.onto(&change.down.forward_with(x, seen)?, extras.residual)?;
        let residual = Some(&onto);
        self.weighted(x, Extras { residual, ..extras })
    }

    /// The convolution without its change.
    fn weighted(&self, x: &Tensor, extras: Extras) -> Result<Tensor> {
        match &self.weight {
            Weight::Packed(filters) if !extras.tracked(x) => self.fused(x, filters, extras),
            _ => self.one_by_one(x, extras),
        }
    }

    /// All at once, without gradients.
    fn fused(&self, x: &Tensor, filters: &Arc<Filters>, extras: Extras) -> Result<Tensor> {
        let bias = match extras.shift {
            Some(shift) => &shift.broadcast_add(&self.bias)?, // (b, outputs)
            None => &self.bias,
        };
        let around = Around {
            bias: Some(bias),
            residual: extras.residual,
            enlarged: extras.enlarged,
        };
        let about = |y: &Tensor| {
            let (_, height, width, _) = y.dims4().unwrap_or_default();
            let (side, inputs) = (self.window.side, x.dims()[3]);
            let name = format!("convolution {side}x{side} at {height}x{width}");
            (name, 2.0 * (side * side * inputs * y.elem_count()) as f64)
        };
        profile::of(about, || {
            kernel::conv2d(&x.contiguous()?, filters, self.window, around)
        })
    }

    /// Step by step, with gradients and on every device.
    fn one_by_one(&self, x: &Tensor, extras: Extras) -> Result<Tensor> {
        let mut y = match extras.enlarged {
            Some((height, width)) => self.convolved(&upsample_nearest(x, height, width)?)?,
            None => self.convolved(x)?,
        };
        if let Some(shift) = extras.shift {
            y = y.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?)?; // (b, 1, 1, outputs)
        }
        match extras.residual {
            Some(residual) => add(&y, residual),
            None => Ok(y),
        }
    }

    fn convolved(&self, x: &Tensor) -> Result<Tensor> {
        let x = &x.contiguous()?;
        match &self.weight {
            Weight::Packed(filters) => {
                let around = Around {
                    bias: Some(&self.bias),
                    ..Around::default()
                };
                kernel::conv2d(x, filters, self.window, around)
            }
            Weight::Plain(weight) if on_cpu(x) && weight.dtype() == DType::F32 => {
                kernel::conv2d_tracked(x, weight, &self.bias, self.window)
            }
            Weight::Plain(weight) => {
                let weight = weight.to_dtype(x.dtype())?;
                composed(x, &weight, self.window, PATCHES_AT_ONCE)?
                    .broadcast_add(&self.bias.to_dtype(x.dtype())?)
            }
        }
    }
}

impl Extras<'_> {
    /// Whether a gradient has to flow back.
    fn tracked(&self, x: &Tensor) -> bool {
        let more = [self.shift, self.residual];
        x.track_op() || more.into_iter().flatten().any(Tensor::track_op)
    }
}

/// Bytes that the patches of a convolution may take at once: candle lays out all
/// that it is given, nine times a picture for a 3x3 convolution.
const PATCHES_AT_ONCE: usize = 1 << 30;

/// candle's convolution, for every device.
fn composed(x: &Tensor, weight: &Tensor, window: Window, at_once: usize) -> Result<Tensor> {
    if window == Window::same(1) {
        return by_pixel(x, weight);
    }
    let x = x.permute((0, 3, 1, 2))?.contiguous()?; // (b, c, h, w)
    let (height, width) = (window.output(x.dim(2)?), window.output(x.dim(3)?));
    let rows = rows_at_once(&x, window, at_once)?;
    let seen = |made| (made - 1) * window.stride + window.side;
    let y = if rows >= height && window == Window::same(window.side) {
        x.conv2d(weight, window.before, window.stride, 1, 1)?
    } else {
        let padded = x.pad_with_zeros(2, window.before, window.after)?;
        let padded = padded.pad_with_zeros(3, window.before, window.after)?;
        // No column too many: candle's gradient knows one rest for both axes.
        let padded = padded.narrow(3, 0, seen(width))?;
        let strip = |top: usize| {
            let strip = padded.narrow(2, top * window.stride, seen(rows.min(height - top)))?;
            strip.contiguous()?.conv2d(weight, 0, window.stride, 1, 1)
        };
        let strips: Result<Vec<_>> = (0..height).step_by(rows).map(strip).collect();
        Tensor::cat(&strips?, 2)?
    };
    y.permute((0, 2, 3, 1))?.contiguous() // (b, h, w, c)
}

/// A 1x1 convolution: one product over all pixels.
fn by_pixel(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let weight = weight.flatten_from(1)?; // (outputs, c)
    let y = x.reshape(((), c))?.matmul(&weight.t()?)?;
    y.reshape((b, h, w, ()))
}

/// Rows of the output whose patches of x (b, c, h, w) take as many bytes.
fn rows_at_once(x: &Tensor, window: Window, bytes: usize) -> Result<usize> {
    let (b, c, _, w) = x.dims4()?;
    let values = b * window.output(w) * c * window.side * window.side;
    Ok((bytes / (values * x.dtype().size_in_bytes()).max(1)).max(1))
}

/// Enlarges (b, h, w, c) to the given height and width by repeating the
/// nearest value, as PyTorch's `interpolate` picks it.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let x = x.contiguous()?;
    if on_cpu(&x) {
        return kernel::enlarge(&x, height, width);
    }
    enlarged(&x, height, width)
}

/// The same from candle's operations, on every device.
fn enlarged(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if (height, width) == (2 * h, 2 * w) {
        let twice = x.reshape((b, h, 1, w, 1, c))?;
        let twice = twice.broadcast_as((b, h, 2, w, 2, c))?;
        return twice.reshape((b, height, width, c));
    }
    let pick = |from, to| {
        let rows: Vec<_> = nearest(from, to).into_iter().map(|i| i as u32).collect();
        Tensor::new(rows, x.device())
    };
    x.index_select(&pick(h, height)?, 1)?
        .index_select(&pick(w, width)?, 2)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn wave(shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        gap.to_scalar().unwrap()
    }

    fn ones(side: usize) -> Tensor {
        Tensor::ones((1, 1, side, side), DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_lopsided_stride_pads_below_and_right() {
        // conv2d(pad(x, (0, 1, 0, 1)), ones(1, 1, 3, 3), stride=2), x = arange(16)
        let x = Tensor::arange(0f32, 16., &Device::Cpu).unwrap();
        let x = x.reshape((1, 4, 4, 1)).unwrap();
        let conv = Conv2d::new(ones(3), None, Stride::TwoLopsided).unwrap();
        let y = conv.forward(&x).unwrap().flatten_all().unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), [45., 39., 66., 50.]);
    }

    #[test]
    fn stride_two_rounds_odd_sizes_up() {
        let x = Tensor::ones((1, 5, 7, 1), DType::F32, &Device::Cpu).unwrap();
        let conv = Conv2d::new(ones(3), None, Stride::Two).unwrap();
        let y = conv.forward(&x).unwrap();
        assert_eq!(y.dims(), [1, 3, 4, 1]);
        // The corner sees four ones, the edge six, the inside nine.
        let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y[..5], [4., 6., 6., 4., 6.]);
    }

    #[test]
    fn the_three_ways_agree() {
        let (x, weight) = (wave((2, 5, 4, 3)), wave((6, 3, 3, 3)));
        let bias = wave((1, 1, 1, 6)).flatten_all().unwrap();
        let (shift, residual) = (
            wave((1, 1, 2, 6)).reshape((2, 6)).unwrap(),
            wave((2, 9, 8, 6)),
        );
        let extras = Extras {
            shift: Some(&shift),
            residual: Some(&residual),
            enlarged: Some((9, 8)),
        };
        let frozen = Conv2d::new(weight.clone(), Some(bias.clone()), Stride::One).unwrap();
        let trained = Var::from_tensor(&weight).unwrap();
        let trained = Conv2d::new(trained.as_tensor().clone(), Some(bias), Stride::One).unwrap();
        let enlarged = upsample_nearest(&x, 9, 8).unwrap();
        let plain = composed(&enlarged, &weight, Window::same(3), usize::MAX).unwrap();
        let plain = plain.broadcast_add(&frozen.bias).unwrap();
        let plain = plain
            .broadcast_add(&shift.reshape((2, 1, 1, 6)).unwrap())
            .unwrap();
        let plain = (plain + &residual).unwrap();
        for conv in [frozen, trained] {
            let found = conv.forward_with(&x, extras).unwrap();
            assert!(gap(&found, &plain) < 1e-5);
        }
    }

    #[test]
    fn what_other_devices_do_in_parts_is_the_same() {
        let (x, weight) = (wave((2, 9, 6, 3)), wave((4, 3, 3, 3)));
        for stride in [Stride::One, Stride::Two, Stride::TwoLopsided] {
            let (x, weight) = (
                Var::from_tensor(&x).unwrap(),
                Var::from_tensor(&weight).unwrap(),
            );
            let conv = Conv2d::new(weight.as_tensor().clone(), None, stride).unwrap();
            let learnt = |y: &Tensor| {
                let back = (y * wave(y.dims4().unwrap())).unwrap().backward().unwrap();
                [&x, &weight].map(|var| back.get(var).unwrap().clone())
            };
            let expected = conv.forward(&x).unwrap();
            for bytes in [1, 5000, usize::MAX] {
                let found = composed(&x, &weight, stride.window(3), bytes).unwrap();
                assert!(gap(&found, &expected) < 1e-5, "{stride:?} by {bytes} bytes");
                let pairs = learnt(&found).into_iter().zip(learnt(&expected));
                for (found, expected) in pairs {
                    assert!(gap(&found, &expected) < 1e-4, "{stride:?} by {bytes} bytes");
                }
            }
        }
        let narrow = weight.narrow(2, 1, 1).unwrap().narrow(3, 1, 1).unwrap();
        let narrow = narrow.contiguous().unwrap();
        let conv = Conv2d::new(narrow.clone(), None, Stride::One).unwrap();
        let found = composed(&x, &narrow, Window::same(1), 1).unwrap();
        assert!(gap(&found, &conv.forward(&x).unwrap()) < 1e-5);
        for size in [(18, 12), (17, 12), (5, 20)] {
            let found = enlarged(&x, size.0, size.1).unwrap();
            assert_eq!(
                gap(&found, &upsample_nearest(&x, size.0, size.1).unwrap()),
                0.0
            );
        }
    }
}
