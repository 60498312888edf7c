//! Convolution as matrix products over small pieces of the unfolded picture
//! (im2col).
//!
//! The sum over a few channels at a time goes into the output before the next
//! few follow, so that no f32 sum runs over more than [`TERMS`] products: the
//! rounding error stays that of short sums, whatever the number of channels.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Products that are summed before they are added to the output.
const TERMS: usize = 72;

/// Output pixels that one thread works on at a time.
const PIXELS: usize = 512;

/// Where a convolution looks: kernel side, stride, and zeros added above and
/// to the left. As many zeros as the output needs are added below and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side of the kernel.
    pub side: usize,
    /// Step from one output pixel to the next.
    pub stride: usize,
    /// Zeros above and to the left of the picture.
    pub before: usize,
    /// Zeros below and to the right of it.
    pub after: usize,
}

impl Window {
    /// The length of the output along an axis of length `n`.
    pub fn output(self, n: usize) -> usize {
        (n + self.before + self.after).saturating_sub(self.side) / self.stride + 1
    }
}

/// Convolves x (b, inputs, h, w) with `weight` (outputs, inputs, k, k), both
/// f32, contiguous and on a CPU. There is no backward pass.
pub fn conv2d(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &Conv { window })
}

struct Conv {
    window: Window,
}

/// One picture and what becomes of it.
struct Plan {
    window: Window,
    inputs: usize,
    outputs: usize,
    from: (usize, usize),
    to: (usize, usize),
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, inputs, h, w) = x_layout.shape().dims4()?;
        let (outputs, expected, side, _) = weight_layout.shape().dims4()?;
        if expected != inputs || side != self.window.side {
            bail!(
                "conv2d: {inputs} channels for a kernel of shape {:?}",
                weight_layout.shape()
            );
        }
        let to = (self.window.output(h), self.window.output(w));
        let plan = Plan {
            window: self.window,
            inputs,
            outputs,
            from: (h, w),
            to,
        };
        let (x, weight) = (
            super::values(x, x_layout)?,
            super::values(weight, weight_layout)?,
        );
        let mut y = vec![0f32; b * outputs * to.0 * to.1];
        for (y, x) in y
            .chunks_mut(outputs * to.0 * to.1)
            .zip(x.chunks(inputs * h * w))
        {
            plan.convolve(x, weight, y);
        }
        Ok((CpuStorage::F32(y), (b, outputs, to.0, to.1).into()))
    }
}

impl Plan {
    /// y (outputs, pixels) of x (inputs, h, w), a stretch of pixels per task.
    fn convolve(&self, x: &[f32], weight: &[f32], y: &mut [f32]) {
        let pixels = self.to.0 * self.to.1;
        let threads = rayon::current_num_threads();
        let stretch = PIXELS.min(pixels.div_ceil(threads)).max(1);
        let output = Columns {
            first: y.as_mut_ptr(),
            length: y.len(),
        };
        (0..pixels.div_ceil(stretch)).into_par_iter().for_each(|i| {
            let start = i * stretch;
            let count = stretch.min(pixels - start);
            self.stretch(x, weight, &output, start..start + count);
        });
    }

    /// Fills the columns `range` of the output.
    fn stretch(&self, x: &[f32], weight: &[f32], y: &Columns, range: std::ops::Range<usize>) {
        let taps = self.window.side * self.window.side;
        let channels = (TERMS / taps).clamp(1, self.inputs);
        let mut unfolded = vec![0f32; channels * taps * range.len()];
        for first in (0..self.inputs).step_by(channels) {
            let channels = channels.min(self.inputs - first);
            self.unfold(x, first..first + channels, range.clone(), &mut unfolded);
            let weight = &weight[first * taps..];
            self.accumulate(weight, &unfolded, channels * taps, y, range.clone());
        }
    }

    /// The values under each tap, (channels * taps, pixels of the range).
    fn unfold(
        &self,
        x: &[f32],
        channels: std::ops::Range<usize>,
        range: std::ops::Range<usize>,
        unfolded: &mut [f32],
    ) {
        let (side, plane) = (self.window.side, self.from.0 * self.from.1);
        let mut rows = unfolded.chunks_mut(range.len());
        for channel in channels {
            let x = &x[channel * plane..][..plane];
            for tap in 0..side * side {
                if let Some(row) = rows.next() {
                    self.tap(x, (tap / side, tap % side), range.clone(), row);
                }
            }
        }
    }

    /// The values of one channel under one tap, for each pixel of the range.
    fn tap(&self, x: &[f32], tap: (usize, usize), range: std::ops::Range<usize>, row: &mut [f32]) {
        let (h, w) = self.from;
        let Window { stride, before, .. } = self.window;
        let mut rest = row;
        let mut pixel = range.start;
        while pixel < range.end {
            let (out_y, out_x) = (pixel / self.to.1, pixel % self.to.1);
            let count = (self.to.1 - out_x).min(range.end - pixel);
            let (line, tail) = rest.split_at_mut(count);
            let source = (out_y * stride + tap.0)
                .checked_sub(before)
                .filter(|&y| y < h);
            match source {
                Some(y) => gather(
                    &x[y * w..][..w],
                    out_x * stride + tap.1,
                    before,
                    stride,
                    line,
                ),
                None => line.fill(0.0),
            }
            rest = tail;
            pixel += count;
        }
    }

    /// Adds weight (outputs, terms of a row) times unfolded (terms, pixels) to
    /// the columns `range` of the output.
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    fn accumulate(
        &self,
        weight: &[f32],
        unfolded: &[f32],
        terms: usize,
        y: &Columns,
        range: std::ops::Range<usize>,
    ) {
        let (pixels, row) = (
            self.to.0 * self.to.1,
            self.inputs * self.window.side * self.window.side,
        );
        let (m, n) = (self.outputs, range.len());
        assert!(
            (m - 1) * row + terms <= weight.len(),
            "the weight has a row per output"
        );
        assert!(terms * n <= unfolded.len(), "every term has its pixels");
        assert!(
            (m - 1) * pixels + range.end <= y.length,
            "the output has a row per output"
        );
        // SAFETY: the assertions above keep every access inside the slices; the
        // tasks of one output own disjoint columns of it, and its borrow
        // outlives them all.
        unsafe {
            gemm::gemm(
                m,
                n,
                terms,
                y.first.add(range.start),
                1,
                pixels as isize,
                true,
                weight.as_ptr(),
                1,
                row as isize,
                unfolded.as_ptr(),
                1,
                n as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// Every `stride`-th value of `line` from `start - before` on; zeros outside.
fn gather(line: &[f32], start: usize, before: usize, stride: usize, row: &mut [f32]) {
    let w = line.len();
    // The first outputs may lie left of the line, the last ones right of it.
    let left = before.saturating_sub(start).div_ceil(stride).min(row.len());
    let inside = (w + before)
        .saturating_sub(start)
        .div_ceil(stride)
        .clamp(left, row.len());
    row[..left].fill(0.0);
    row[inside..].fill(0.0);
    if inside == left {
        return;
    }
    let line = &line[start + left * stride - before..];
    match stride {
        1 => row[left..inside].copy_from_slice(&line[..inside - left]),
        _ => row[left..inside]
            .iter_mut()
            .zip(line.iter().step_by(stride))
            .for_each(|(y, x)| *y = *x),
    }
}

/// An output whose columns are shared out among tasks.
struct Columns {
    first: *mut f32,
    length: usize,
}

#[expect(unsafe_code, reason = "tasks write disjoint columns")]
// SAFETY: the pointer is only used by `Plan::accumulate`, on columns that no
// two tasks share.
unsafe impl Sync for Columns {}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn waves(shape: (usize, usize, usize, usize), phase: f64) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f32> = (0..count)
            .map(|i| ((i as f64 * 0.73 + phase).sin() * 2.0) as f32)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// The definition, in f64.
    fn plain(x: &Tensor, weight: &Tensor, window: Window) -> Vec<f64> {
        let (b, inputs, h, w) = x.dims4().unwrap();
        let (outputs, _, side, _) = weight.dims4().unwrap();
        let (x, weight) = (flat(x), flat(weight));
        let (oh, ow) = (window.output(h), window.output(w));
        let value = |i: usize| {
            let (image, output, y, column) = (
                i / (outputs * oh * ow),
                i / (oh * ow) % outputs,
                i / ow % oh,
                i % ow,
            );
            let mut sum = 0.0;
            for (c, ky, kx) in
                (0..inputs * side * side).map(|t| (t / (side * side), t / side % side, t % side))
            {
                let row = (y * window.stride + ky)
                    .checked_sub(window.before)
                    .filter(|&r| r < h);
                let col = (column * window.stride + kx)
                    .checked_sub(window.before)
                    .filter(|&c| c < w);
                if let (Some(row), Some(col)) = (row, col) {
                    let value = f64::from(x[((image * inputs + c) * h + row) * w + col]);
                    sum +=
                        value * f64::from(weight[((output * inputs + c) * side + ky) * side + kx]);
                }
            }
            sum
        };
        (0..b * outputs * oh * ow).map(value).collect()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn it_equals_the_definition_for_many_shapes() {
        let same = |side| Window {
            side,
            stride: 1,
            before: side / 2,
            after: side / 2,
        };
        let halving = Window {
            side: 3,
            stride: 2,
            before: 1,
            after: 1,
        };
        let lopsided = Window {
            side: 3,
            stride: 2,
            before: 0,
            after: 1,
        };
        for (window, b, inputs, outputs, h, w) in [
            (same(3), 1, 1, 1, 1, 1),
            (same(3), 2, 5, 3, 7, 4),
            (same(3), 1, 33, 17, 31, 40),
            (same(1), 3, 130, 9, 5, 6),
            (same(5), 1, 2, 2, 3, 9),
            (halving, 1, 4, 8, 9, 13),
            (halving, 2, 3, 5, 1, 2),
            (lopsided, 1, 12, 7, 8, 6),
            (lopsided, 1, 2, 2, 2, 34),
        ] {
            let x = waves((b, inputs, h, w), 0.3);
            let weight = waves((outputs, inputs, window.side, window.side), 1.1);
            let y = conv2d(&x, &weight, window).unwrap();
            assert_eq!(y.dims(), [b, outputs, window.output(h), window.output(w)]);
            let scale = (inputs * window.side * window.side) as f64;
            let worst = flat(&y)
                .iter()
                .zip(plain(&x, &weight, window))
                .map(|(a, b)| (f64::from(*a) - b).abs() / scale)
                .fold(0.0, f64::max);
            assert!(
                worst < 1e-6,
                "{window:?} {b} {inputs} {outputs} {h}x{w}: {worst}"
            );
        }
    }

    #[test]
    fn a_wrong_kernel_is_refused() {
        let window = Window {
            side: 3,
            stride: 1,
            before: 1,
            after: 1,
        };
        assert!(conv2d(&waves((1, 3, 4, 4), 0.), &waves((2, 4, 3, 3), 0.), window).is_err());
        assert!(conv2d(&waves((1, 3, 4, 4), 0.), &waves((2, 3, 1, 1), 0.), window).is_err());
    }
}
