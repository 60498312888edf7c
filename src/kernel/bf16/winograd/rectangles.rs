//! Rectangles of output pixels, and the transform of the input below them.

use pulp::Simd;

use super::{FEWEST, PIECE, POINTS, TILE, points::Points};
use crate::kernel::{
    bf16::{
        lines::{Line, ROWS, Steps, TERMS, line},
        product::{Left, Strip, Tile},
    },
    conv::patches::Patches,
    group_norm::Affine,
    scratch::Scratch,
};

/// Pixels of a rectangle's row, where they divide the picture's.
const WIDE: usize = 32;

/// Lines of a rectangle, a quarter of an L2 cache of 1 MiB.
const LINES: usize = 1 << 12;

/// Pictures, cut into rectangles of output pixels.
pub(super) struct Rectangles<'a> {
    patches: &'a Patches<'a>,
    /// The norm of each picture, if any.
    norms: &'a [Affine],
    pictures: usize,
    points: &'static [usize],
    /// Height and width of a rectangle.
    size: (usize, usize),
    /// Steps of a pixel.
    depth: usize,
}

impl<'a> Rectangles<'a> {
    pub(super) fn new((patches, norms): (&'a Patches<'a>, &'a [Affine]), pictures: usize) -> Self {
        let ((height, width), depth) = (patches.size(), patches.channels().div_ceil(TERMS));
        let wide = match width.is_multiple_of(WIDE) {
            true => WIDE,
            false => width,
        };
        // For all points: with fewer, as many tiles, which are whole pairs of a product's tiles.
        let tiles = (LINES / POINTS / depth.max(1)).max(FEWEST);
        let high = TILE * (tiles / wide.div_ceil(TILE)).max(1);
        Self {
            patches,
            norms,
            pictures,
            points: Points::of(patches).indices(),
            size: (high.min(height), wide),
            depth,
        }
    }

    /// The number of rectangles down and across a picture.
    fn grid(&self) -> [usize; 2] {
        let (height, width) = self.patches.size();
        [height.div_ceil(self.size.0), width / self.size.1]
    }

    /// The picture, the first row and column, and the height and width of a strip.
    pub(super) fn place(&self, strip: usize) -> (usize, [usize; 2], [usize; 2]) {
        let [down, across] = self.grid();
        let (y, x) = (
            strip / across % down * self.size.0,
            strip % across * self.size.1,
        );
        let high = self.size.0.min(self.patches.size().0 - y);
        (strip / across / down, [y, x], [high, self.size.1])
    }
}

impl Left for Rectangles<'_> {
    fn segment(&self) -> usize {
        self.size.1
    }

    fn strips(&self) -> usize {
        let [down, across] = self.grid();
        self.pictures * down * across
    }

    fn strip_of(&self, segment: usize) -> usize {
        let ([down, across], height) = (self.grid(), self.patches.size().0);
        let (row, x) = (segment / across, segment % across);
        (row / height * down + row % height / self.size.0) * across + x
    }

    /// Lines by point, step and tile of outputs.
    #[inline(always)]
    fn strip<S: Simd>(&self, s: S, strip: usize) -> Strip {
        let (picture, [y, x], [high, wide]) = self.place(strip);
        let rows = (0..high + 2).map(|i| self.patches.input_row(y + i));
        let columns: Vec<_> = (0..wide + 2)
            .map(|i| self.patches.input_column(x + i))
            .collect();
        let places: Vec<_> = rows
            .flat_map(|row| columns.iter().map(move |column| (row, *column)))
            .collect();
        let pixel = |(row, column)| self.patches.at(picture, row, column);
        let mut pixels: Vec<_> = places.iter().copied().map(pixel).collect();
        let norm = self.norms.get(picture);
        let normalised = norm.map(|norm| normalised(s, norm, &places, &pixels));
        if let Some(normalised) = &normalised {
            pixels = normalised.chunks(self.patches.channels()).collect();
        }
        let (across, down) = (wide.div_ceil(TILE), high.div_ceil(TILE));
        let (count, height) = (down * across, (down * across).next_multiple_of(ROWS));
        let mut lines = Scratch::new(self.points.len() * self.depth * height);
        for tile in 0..count {
            let first = tile / across * TILE * (wide + 2) + tile % across * TILE;
            let piece = std::array::from_fn(|i| {
                // The last pixels of an odd side are read for no output.
                let at = first + i / PIECE * (wide + 2) + i % PIECE;
                pixels.get(at).copied().unwrap_or(pixels[0])
            });
            let lines = &mut lines[tile..];
            transform(s, &piece, self.points, lines, (self.depth, height));
        }
        Strip {
            lines,
            steps: Steps::at((0..self.depth).map(|step| step * height)),
            tiles: Tile::of_rows(count),
        }
    }
}

/// A group norm and SiLU of pixels; those outside of the picture stay zeros.
#[inline(always)]
fn normalised<S: Simd>(
    s: S,
    norm: &Affine,
    places: &[(usize, usize)],
    pixels: &[&[f32]],
) -> Scratch {
    let inputs = pixels[0].len();
    let mut all = Scratch::new(pixels.len() * inputs);
    let slots = all.chunks_mut(inputs).zip(pixels).zip(places);
    for ((slot, pixel), (row, column)) in slots {
        match Patches::is_inside(*row, *column) {
            true => norm.silu(s, pixel, 0..inputs, slot),
            false => slot.fill(0.0),
        }
    }
    all
}

/// Transforms a piece of the input and rounds these points: the lines of points and steps
/// are `height` apart.
#[inline(always)]
fn transform<S: Simd>(
    s: S,
    piece: &[&[f32]; POINTS],
    numbers: &[usize],
    lines: &mut [Line],
    (depth, height): (usize, usize),
) {
    // No `map` of arrays, here and below: it would not be compiled for these vectors.
    for step in 0..depth {
        let mut pixels = [&[][..]; POINTS];
        for (slot, pixel) in pixels.iter_mut().zip(piece) {
            *slot = S::as_simd_f32s(&pixel[step * TERMS..][..TERMS]).0;
        }
        let mut points = [[0.0; TERMS]; POINTS];
        for v in 0..TERMS / S::F32_LANES {
            let mut columns = [[s.splat_f32s(0.0); PIECE]; PIECE];
            for (x, column) in columns.iter_mut().enumerate() {
                for (y, value) in column.iter_mut().enumerate() {
                    *value = pixels[y * PIECE + x][v];
                }
                *column = inwards(s, *column);
            }
            for y in 0..PIECE {
                let mut line = [s.splat_f32s(0.0); PIECE];
                for (value, column) in line.iter_mut().zip(&columns) {
                    *value = column[y];
                }
                line = inwards(s, line);
                for (x, value) in line.iter().enumerate() {
                    S::as_mut_simd_f32s(&mut points[y * PIECE + x]).0[v] = *value;
                }
            }
        }
        for (i, number) in numbers.iter().enumerate() {
            lines[(i * depth + step) * height] = line(&points[*number]);
        }
    }
}

/// The one-dimensional transform of the input.
#[inline(always)]
fn inwards<S: Simd>(s: S, d: [S::f32s; PIECE]) -> [S::f32s; PIECE] {
    [
        s.sub_f32s(d[0], d[2]),
        s.add_f32s(d[1], d[2]),
        s.sub_f32s(d[2], d[1]),
        s.sub_f32s(d[1], d[3]),
    ]
}
