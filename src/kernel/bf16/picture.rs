//! A picture as the left side of a product. A strip is a rectangle of output pixels: the
//! input below it, with its margin, is rounded once, and each tap's terms are the same lines
//! from another pixel on. With a stride, pixels that a tap may read lie side by side: one
//! plane for each remainder of their coordinates.

use std::ops::Range;

use pulp::Simd;

use super::{
    Pairs, Unit,
    lines::{Line, ROWS, Steps, TERMS, line, round_row},
    product::{Left, NOWHERE, Strip, Tile, product},
};
use crate::kernel::{
    conv::patches::Patches, epilogue::Addends, group_norm::Affine, scratch::Scratch,
};

/// Lines of a rectangle, half of a large L2 cache.
const LINES: usize = 1 << 14;

/// Pixels of a rectangle's row, at most about.
const WIDE: usize = 64;

/// Rows of a rectangle, at least: more would be margin than picture.
const LOW: usize = 8;

/// Pixels of small pictures that are computed together.
const TOGETHER: usize = 256;

/// Convolves patches, normalised before if `norms` has a norm for each picture: `out` (b,
/// height, width, outputs).
pub(in crate::kernel) fn convolve(
    unit: Unit,
    (patches, norms): (&Patches, &[Affine]),
    weights: &Pairs,
    addends: Addends,
    out: &mut [f32],
) {
    let (height, width) = patches.size();
    let pictures = out.len() / (height * width * weights.columns()).max(1);
    if pictures > 0 {
        let picture = Picture::new((patches, norms), pictures);
        product(unit, &picture, weights, addends, out);
    }
}

/// Pictures, cut into rectangles.
struct Picture<'a> {
    patches: &'a Patches<'a>,
    /// The norm of each picture, if any.
    norms: &'a [Affine],
    pictures: usize,
    /// Height and width of a rectangle.
    size: (usize, usize),
    /// Pictures per strip, if a rectangle is a whole one.
    together: usize,
    /// Steps of a pixel.
    depth: usize,
}

impl<'a> Picture<'a> {
    fn new((patches, norms): (&'a Patches<'a>, &'a [Affine]), pictures: usize) -> Self {
        let ((height, width), depth) = (patches.size(), patches.channels().div_ceil(TERMS));
        let across = width.div_ceil(width.div_ceil(WIDE)).next_multiple_of(ROWS);
        let wide = if width.is_multiple_of(across) {
            across
        } else {
            width
        };
        let high = (LINES / depth.max(1) / wide).max(LOW);
        let high = height.div_ceil(height.div_ceil(high));
        let whole = (high, wide) == (height, width);
        let together = if whole {
            TOGETHER / (height * width)
        } else {
            1
        };
        Self {
            patches,
            norms,
            pictures,
            size: (high, wide),
            together: together.clamp(1, pictures),
            depth,
        }
    }

    /// The number of rectangles down and across a picture.
    fn grid(&self) -> [usize; 2] {
        let (height, width) = self.patches.size();
        [height.div_ceil(self.size.0), width / self.size.1]
    }

    /// The pictures and the first row and column of a strip.
    fn place(&self, strip: usize) -> (Range<usize>, usize, usize) {
        let [down, across] = self.grid();
        let first = strip / (down * across) * self.together;
        let pictures = first..self.pictures.min(first + self.together);
        let (y, x) = (strip / across % down, strip % across);
        (pictures, y * self.size.0, x * self.size.1)
    }
}

/// How the pixels of a strip's rectangles lie in its lines.
#[derive(Clone, Copy)]
struct Planes {
    stride: usize,
    /// Rows and columns of each rectangle's plane.
    rows: usize,
    pitch: usize,
    /// Pixels of a plane.
    plane: usize,
}

impl Planes {
    fn new((high, wide): (usize, usize), count: usize, side: usize, stride: usize) -> Self {
        let along = |outputs: usize| ((outputs - 1) * stride + side).div_ceil(stride);
        let (rows, pitch) = (along(high), along(wide));
        Self {
            stride,
            rows,
            pitch,
            plane: count * rows * pitch,
        }
    }

    /// The place of a column of the input, relative to that of its row.
    fn column(self, x: usize) -> usize {
        x % self.stride * self.plane + x / self.stride
    }

    /// The place of a row of a rectangle's input.
    fn row(self, rectangle: usize, y: usize) -> usize {
        y % self.stride * self.stride * self.plane + self.output(rectangle, y / self.stride, 0)
    }

    /// The place of the first tap of an output.
    #[inline(always)]
    fn output(self, rectangle: usize, y: usize, x: usize) -> usize {
        (rectangle * self.rows + y) * self.pitch + x
    }

    /// Pixels of all planes.
    fn all(self) -> usize {
        self.stride * self.stride * self.plane
    }
}

impl Left for Picture<'_> {
    fn segment(&self) -> usize {
        self.size.1
    }

    fn strips(&self) -> usize {
        let [down, across] = self.grid();
        self.pictures.div_ceil(self.together) * down * across
    }

    fn strip_of(&self, segment: usize) -> usize {
        let ([down, across], height) = (self.grid(), self.patches.size().0);
        let (row, x) = (segment / across, segment % across);
        let (picture, y) = (row / height / self.together, row % height / self.size.0);
        (picture * down + y) * across + x
    }

    #[inline(always)]
    fn strip<S: Simd>(&self, s: S, strip: usize) -> Strip {
        let (pictures, y, x) = self.place(strip);
        let (side, stride) = (self.patches.geometry().side, self.patches.geometry().stride);
        let area = (self.size.0.min(self.patches.size().0 - y), self.size.1);
        let planes = Planes::new(area, pictures.len(), side, stride);
        let tap = |tap: usize| planes.row(0, tap / side) + planes.column(tap % side);
        let taps = side * side;
        let steps =
            Steps::at((0..self.depth * taps).map(|i| i / taps * planes.all() + tap(i % taps)));
        let tiles = tiles(planes, pictures.len(), area);
        let last = tiles.iter().map(|tile| steps.reach(tile.first)).max();
        let mut lines = Scratch::new(last.unwrap_or(0).max(self.depth * planes.all()));
        let span = |outputs: usize| 0..(outputs - 1) * stride + side;
        let column = |i| (self.patches.input_column(x * stride + i), planes.column(i));
        let columns: Vec<_> = span(area.1).map(column).collect();
        for (i, picture) in pictures.enumerate() {
            for row in span(area.0) {
                let (from, to) = (self.patches.input_row(y * stride + row), planes.row(i, row));
                for (column, place) in &columns {
                    let pixel = self.patches.at(picture, from, *column);
                    let lines = &mut lines[to + place..];
                    match self.norms.get(picture) {
                        Some(norm) if Patches::is_inside(from, *column) => {
                            put_normalised(s, norm, pixel, planes.all(), lines);
                        }
                        _ => round_row(pixel, lines, (0, planes.all())),
                    }
                }
            }
        }
        Strip {
            lines,
            steps,
            tiles,
        }
    }
}

/// Rounds a group norm and SiLU of the channels of a pixel, to lines that are `all` apart.
#[inline(always)]
fn put_normalised<S: Simd>(s: S, norm: &Affine, pixel: &[f32], all: usize, lines: &mut [Line]) {
    for (step, values) in pixel.chunks(TERMS).enumerate() {
        let mut terms = [0.0; TERMS];
        let channels = step * TERMS..step * TERMS + values.len();
        norm.silu(s, values, channels, &mut terms);
        lines[step * all] = line(&terms);
    }
}

/// Tiles that cover the outputs of `count` rectangles: each within a row, or, where fewer
/// suffice so, across rows and the margins between them.
fn tiles(planes: Planes, count: usize, (high, wide): (usize, usize)) -> Vec<Tile> {
    let end = planes.output(count - 1, high - 1, wide);
    let within = count * high * wide.div_ceil(ROWS);
    let firsts: Vec<_> = match end.div_ceil(ROWS) < within {
        true => (0..end).step_by(ROWS).collect(),
        false => (0..count * high)
            .flat_map(|row| (0..wide).step_by(ROWS).map(move |x| (row, x)))
            .map(|(row, x)| planes.output(row / high, row % high, x))
            .collect(),
    };
    let mut next = 0;
    let mut number = |at: usize| {
        let (row, x) = (at / planes.pitch, at % planes.pitch);
        let (rectangle, y) = (row / planes.rows, row % planes.rows);
        let inside = x < wide && y < high && rectangle < count;
        let number = (rectangle * high + y) * wide + x;
        // A row's last tile goes on into the next row, whose own tiles begin anew.
        match inside && number == next {
            true => {
                next += 1;
                number as u32
            }
            false => NOWHERE,
        }
    };
    let tile = |first| Tile {
        first,
        rows: std::array::from_fn(|i| number(first + i)),
    };
    firsts.into_iter().map(tile).collect()
}
