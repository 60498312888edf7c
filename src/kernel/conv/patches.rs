//! A picture as the left side of a product: each output pixel is a row, whose
//! terms are the values under the kernel, tap by tap, without copies
//! (M. Dukhan, "The indirect convolution algorithm", arXiv 1907.02129).

use std::ops::Range;

use crate::kernel::gemm::Lhs;

/// Kernel size, stride and padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Side of the kernel.
    pub side: usize,
    /// Stride in pixels.
    pub stride: usize,
    /// Padding above and to the left.
    pub before: usize,
    /// Padding below and to the right.
    pub after: usize,
}

impl ConvGeometry {
    /// A convolution of stride 1 that keeps the size; `side` is odd.
    pub fn same(side: usize) -> Self {
        Self {
            side,
            stride: 1,
            before: side / 2,
            after: side / 2,
        }
    }

    /// The length of the output along an axis of length `n`.
    pub fn output(self, n: usize) -> usize {
        (n + self.before + self.after).saturating_sub(self.side) / self.stride + 1
    }

    /// The input positions of each output along an axis of length `n`, tap by tap.
    fn inputs(self, n: usize) -> Vec<usize> {
        let input = |i: usize| {
            let at = (i / self.side * self.stride + i % self.side).checked_sub(self.before);
            at.filter(|&at| at < n).unwrap_or(OUTSIDE)
        };
        (0..self.output(n) * self.side).map(input).collect()
    }

    /// The output positions of each input along an axis of length `n`, from the last tap to the
    /// first, so that a convolution that keeps the size has the same table as `inputs`.
    fn outputs(self, n: usize) -> Vec<usize> {
        let output = |i: usize| {
            let tap = self.side - 1 - i % self.side;
            let at = (i / self.side + self.before).checked_sub(tap);
            let at = at.filter(|at| at.is_multiple_of(self.stride));
            let at = at.map(|at| at / self.stride);
            at.filter(|&at| at < self.output(n)).unwrap_or(OUTSIDE)
        };
        (0..n * self.side).map(output).collect()
    }
}

/// A tap outside of the picture.
const OUTSIDE: usize = usize::MAX;

/// The patches of a batch of pictures (b, h, w, channels).
pub(in crate::kernel) struct Patches<'a> {
    x: &'a [f32],
    from: (usize, usize),
    to: (usize, usize),
    channels: usize,
    geometry: ConvGeometry,
    /// For each output row and tap, the row of the picture.
    ys: Vec<usize>,
    /// For each output column and tap, the column of the picture.
    xs: Vec<usize>,
    zeros: Vec<f32>,
    /// Whether each pixel of the pictures stands for 2x2 of the input.
    doubled: bool,
}

impl<'a> Patches<'a> {
    /// The patches of pictures x (b, h, w, channels) for each output, after upsampling by
    /// nearest neighbour, if any.
    pub(in crate::kernel) fn new(
        x: &'a [f32],
        (_, h, w, channels): (usize, usize, usize, usize),
        upsample: Option<(usize, usize)>,
        geometry: ConvGeometry,
    ) -> Self {
        let (height, width) = upsample.unwrap_or((h, w));
        let table = |from, to| {
            let nearest = nearest(from, to);
            let source = |at: usize| nearest.get(at).copied().unwrap_or(OUTSIDE);
            geometry.inputs(to).into_iter().map(source).collect()
        };
        Self {
            x,
            from: (h, w),
            to: (geometry.output(height), geometry.output(width)),
            channels,
            geometry,
            ys: table(h, height),
            xs: table(w, width),
            zeros: vec![0.0; channels],
            doubled: upsample == Some((2 * h, 2 * w)),
        }
    }

    /// The patches of the output's gradient (b, height, width, channels) for each input, of
    /// size `to`, from the last tap to the first. With a stride, they are those of a picture
    /// with zeros between the outputs.
    pub(in crate::kernel) fn adjoint(
        gradient: &'a [f32],
        shape: (usize, usize, usize, usize),
        to: (usize, usize),
        geometry: ConvGeometry,
    ) -> Self {
        Self {
            to,
            geometry: ConvGeometry {
                stride: 1,
                before: geometry.side - 1 - geometry.before,
                after: geometry.side - 1 - geometry.after,
                ..geometry
            },
            ys: geometry.outputs(to.0),
            xs: geometry.outputs(to.1),
            ..Self::new(gradient, shape, None, geometry)
        }
    }

    /// Whether this is a 3x3 convolution that keeps the size.
    pub(in crate::kernel) fn is_3x3(&self) -> bool {
        self.geometry == ConvGeometry::same(3)
    }

    /// Whether the input is a picture of half its height and width, upsampled.
    pub(in crate::kernel) fn is_doubled(&self) -> bool {
        self.doubled
    }

    /// Height and width of the output.
    pub(in crate::kernel) fn size(&self) -> (usize, usize) {
        self.to
    }

    /// The channels of the input at one tap of an output pixel.
    #[inline(always)]
    pub(in crate::kernel) fn pixel(&self, row: usize, tap: usize) -> &[f32] {
        let side = self.geometry.side;
        let (pixel, image) = (row % (self.to.0 * self.to.1), row / (self.to.0 * self.to.1));
        let y = self.ys[pixel / self.to.1 * side + tap / side];
        let x = self.xs[pixel % self.to.1 * side + tap % side];
        self.at(image, y, x)
    }

    /// The channels of the input at one tap of consecutive output pixels, which costs fewer
    /// divisions than [`pixel`](Self::pixel).
    pub(in crate::kernel) fn pixels(
        &self,
        rows: Range<usize>,
        tap: usize,
    ) -> impl Iterator<Item = &[f32]> {
        let (side, (height, width)) = (self.geometry.side, self.to);
        let (down, right) = (tap / side, tap % side);
        let row = move |line: usize| self.row(line / height, self.ys[line % height * side + down]);
        let (mut line, mut column) = (rows.start / width, rows.start % width);
        let mut pixels = row(line);
        rows.map(move |_| {
            let x = self.xs[column * side + right];
            column += 1;
            let pixel = match pixels {
                Some(pixels) if x != OUTSIDE => &pixels[x * self.channels..][..self.channels],
                _ => &self.zeros,
            };
            if column == width {
                (line, column) = (line + 1, 0);
                pixels = row(line);
            }
            pixel
        })
    }

    /// The pixels of a row of the picture, if it is one.
    fn row(&self, image: usize, y: usize) -> Option<&[f32]> {
        let length = self.from.1 * self.channels;
        let rows = self.x.get(image * self.from.0 * length..)?;
        rows.get(y.checked_mul(length)?..)?.get(..length)
    }

    /// The N x N input pixels of a tile of outputs that begins at (y, x), for a 3x3
    /// convolution.
    pub(in crate::kernel) fn piece<const N: usize>(
        &self,
        image: usize,
        y: usize,
        x: usize,
    ) -> [[&[f32]; N]; N] {
        // The last pixels belong to further taps of the last output.
        let input = |table: &[usize], at: usize, i: usize, end: usize| {
            let output = (at + i).min(end - 1);
            let taps = &table[3 * output..][..3];
            taps.get(at + i - output).copied().unwrap_or(OUTSIDE)
        };
        let ys: [_; N] = std::array::from_fn(|i| input(&self.ys, y, i, self.to.0));
        let xs: [_; N] = std::array::from_fn(|i| input(&self.xs, x, i, self.to.1));
        ys.map(|y| xs.map(|x| self.at(image, y, x)))
    }

    /// Whether these rows and columns are of the picture, not of its padding.
    #[inline(always)]
    pub(in crate::kernel) fn is_inside(y: usize, x: usize) -> bool {
        y != OUTSIDE && x != OUTSIDE
    }

    /// Number of channels of the input.
    pub(in crate::kernel) fn channels(&self) -> usize {
        self.channels
    }

    pub(in crate::kernel) fn geometry(&self) -> ConvGeometry {
        self.geometry
    }

    /// The row of the picture that is row `y` of the input with its padding.
    pub(in crate::kernel) fn input_row(&self, y: usize) -> usize {
        self.input(&self.ys, y, self.to.0)
    }

    /// The column of the picture that is column `x` of the input with its padding.
    pub(in crate::kernel) fn input_column(&self, x: usize) -> usize {
        self.input(&self.xs, x, self.to.1)
    }

    /// The first tap of an output, or a further one of the last.
    fn input(&self, table: &[usize], at: usize, outputs: usize) -> usize {
        let output = (at / self.geometry.stride).min(outputs - 1);
        let taps = &table[self.geometry.side * output..][..self.geometry.side];
        let tap = taps.get(at - output * self.geometry.stride);
        tap.copied().unwrap_or(OUTSIDE)
    }

    /// The channels of a pixel of the picture, zeros outside.
    #[inline(always)]
    pub(in crate::kernel) fn at(&self, image: usize, y: usize, x: usize) -> &[f32] {
        if y == OUTSIDE || x == OUTSIDE {
            return &self.zeros;
        }
        &self.x[((image * self.from.0 + y) * self.from.1 + x) * self.channels..][..self.channels]
    }

    /// The patches of some rows in memory.
    pub(in crate::kernel) fn unfold(&self, rows: Range<usize>) -> Vec<f32> {
        let taps = self.geometry.side * self.geometry.side;
        let mut unfolded = Vec::with_capacity(rows.len() * taps * self.channels);
        for row in rows {
            (0..taps).for_each(|tap| unfolded.extend_from_slice(self.pixel(row, tap)));
        }
        unfolded
    }
}

impl Lhs for Patches<'_> {
    fn run(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    fn row(&self, row: usize, terms: Range<usize>) -> &[f32] {
        let first = terms.start % self.channels;
        &self.pixel(row, terms.start / self.channels)[first..][..terms.len()]
    }

    fn rows(&self, rows: Range<usize>, terms: Range<usize>) -> Vec<&[f32]> {
        let (tap, first) = (terms.start / self.channels, terms.start % self.channels);
        let pixels = self.pixels(rows, tap);
        pixels.map(|pixel| &pixel[first..][..terms.len()]).collect()
    }
}

/// The source index of each of `to` values in nearest-neighbour upsampling from `from`
/// values: `floor(i * from / to)` in f32, as in PyTorch's `interpolate`.
pub(crate) fn nearest(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    let index = |i: usize| ((i as f32 * scale) as usize).min(from - 1);
    (0..to).map(index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_picks_the_pixels_that_pytorch_picks() {
        // interpolate(torch.arange(n).view(1, 1, 1, n).float(), size=(1, m)).flatten()
        assert_eq!(nearest(4, 7), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(nearest(5, 10), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(nearest(7, 25)[..9], [0, 0, 0, 0, 1, 1, 1, 1, 2]);
        assert_eq!(nearest(1, 3), [0, 0, 0]);
    }

    #[test]
    fn the_outputs_of_an_input_are_those_that_it_contributes_to() {
        let geometries = [
            (3, 1, 1, 1),
            (3, 2, 1, 1),
            (3, 2, 0, 1),
            (1, 1, 0, 0),
            (5, 1, 2, 2),
        ];
        for (side, stride, before, after) in geometries {
            let geometry = ConvGeometry {
                side,
                stride,
                before,
                after,
            };
            for n in [2, 3, 5, 8] {
                let (inputs, outputs) = (geometry.inputs(n), geometry.outputs(n));
                for input in 0..n {
                    for tap in 0..side {
                        let looked = (0..geometry.output(n))
                            .find(|output| inputs[output * side + tap] == input);
                        let found = outputs[input * side + side - 1 - tap];
                        assert_eq!(looked.unwrap_or(OUTSIDE), found, "{geometry:?} {n}");
                    }
                }
            }
        }
    }
}
