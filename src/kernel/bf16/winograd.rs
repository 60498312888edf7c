//! 3x3 convolution with four ninths of the multiplications: F(2x2, 3x3) (A. Lavin and S. Gray,
//! "Fast algorithms for convolutional neural networks", arXiv 1509.09308).
//!
//! A tile of 2x2 outputs is the inverse transform of 16 products of a transformed 4x4 piece of
//! the input and transformed filters. Both transforms are sums and differences in f32, rounded
//! to bf16 once: the error is 1.7 times that of the plain product in theory, which is less than
//! what activations in bf16 cost. Larger tiles (the f32 kernels have 4x4) would lose a digit.
//!
//! Only `vdpbf16ps` profits: beside it products take most of the time. By tiles (AMX) they do
//! not, and the transforms would cost more than they save.

use pulp::{Simd, WithSimd};

use super::{
    Pairs,
    finish::{Added, Finish},
    lines::{COLUMNS, Line, Operands, ROWS, Start, Steps, Sums, TERMS, line, pair, widened},
    product::{Left, NOWHERE, Place, Strip, Task, Tile, tasks},
    unit::{Session, Unit},
};
use crate::kernel::{
    conv::patches::Patches,
    epilogue::Addends,
    group_norm::Affine,
    pages::room,
    parts::{each, fill},
    scratch::Scratch,
    simd::vectorised,
};

/// Side of a tile of outputs.
const TILE: usize = 2;

/// Side of a tile's input.
const PIECE: usize = 4;

/// Products per tile.
const POINTS: usize = PIECE * PIECE;

/// Taps of a filter.
const TAPS: usize = 9;

/// Pixels of a rectangle's row, where they divide the picture's.
const WIDE: usize = 32;

/// Lines of a rectangle, a quarter of an L2 cache of 1 MiB.
const LINES: usize = 1 << 12;

/// Tiles of outputs per rectangle, at least: two tiles of rows.
const FEWEST: usize = 2 * ROWS;

/// Whether the algorithm is applicable and faster.
pub(in crate::kernel) fn pays(
    unit: Unit,
    patches: &Patches,
    (outputs, pictures): (usize, usize),
) -> bool {
    let ((height, width), inputs) = (patches.size(), patches.channels());
    // With fewer tiles, the filters take longer to read than to multiply.
    let tiles = pictures * height.div_ceil(TILE) * width.div_ceil(TILE);
    let wide = inputs.is_multiple_of(TERMS) && inputs >= 2 * TERMS && outputs >= 2 * COLUMNS;
    matches!(unit, Unit::Dots(_)) && patches.is_3x3() && wide && tiles >= 8 * FEWEST
}

/// Convolves 3x3 patches, normalised before if `norms` has a norm for each picture: `out` (b,
/// height, width, outputs).
pub(in crate::kernel) fn convolve(
    unit: Unit,
    (patches, norms): (&Patches, &[Affine]),
    filters: &Filters,
    addends: Addends,
    out: &mut [f32],
) {
    let (columns, (height, width)) = (filters.columns, patches.size());
    let pictures = out.len() / (height * width * columns).max(1);
    let rectangles = Rectangles::new((patches, norms), pictures);
    let finish = Added::new(addends, pictures * height * width, columns);
    each(tasks(&rectangles, columns, out), &|_, task: Task| {
        vectorised(Compute {
            unit,
            rectangles: &rectangles,
            filters,
            finish: &finish,
            task,
        });
    });
}

/// Transformed filters.
#[derive(Debug)]
pub(in crate::kernel) struct Filters {
    columns: usize,
    steps: usize,
    /// Panel by panel, in a panel point by point, and of a point step by step.
    blocks: Vec<Block>,
}

type Block = [Line; 2 * ROWS];

impl Filters {
    /// Transforms the weights of a 3x3 convolution: of 32 inputs all taps, one after another.
    pub(in crate::kernel) fn of(weights: &Pairs) -> Self {
        let steps = weights.steps() / TAPS;
        let count = weights.panels() * POINTS * steps;
        let mut blocks = room(count);
        fill(&mut blocks, count, &|i| {
            let (panel, point, step) = (i / steps / POINTS, i / steps % POINTS, i % steps);
            let taps = &weights.panel(panel)[step * TAPS * 2 * ROWS..][..TAPS * 2 * ROWS];
            vectorised(Transform(taps, point))
        });
        Self {
            columns: weights.columns(),
            steps,
            blocks,
        }
    }

    /// The lines of a point of a panel, step by step.
    #[inline(always)]
    fn point(&self, panel: usize, point: usize) -> &[Line] {
        self.blocks[(panel * POINTS + point) * self.steps..][..self.steps].as_flattened()
    }
}

/// One point of the filters in the blocks of nine taps.
struct Transform<'a>(&'a [Line], usize);

impl WithSimd for Transform<'_> {
    type Output = Block;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Block {
        const FILTER: [[f32; 3]; PIECE] = [
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.5],
            [0.5, -0.5, 0.5],
            [0.0, 0.0, 1.0],
        ];
        let Self(taps, point) = self;
        let (down, right) = (FILTER[point / PIECE], FILTER[point % PIECE]);
        let mut block = [Line::default(); 2 * ROWS];
        for (at, line) in block.iter_mut().enumerate() {
            let mut sums = [[0.0; 2]; 16];
            for tap in 0..TAPS {
                let factor = down[tap / 3] * right[tap % 3];
                for (sums, pair) in sums.iter_mut().zip(taps[tap * 2 * ROWS + at].0) {
                    let [even, odd] = widened(pair);
                    *sums = [sums[0] + factor * even, sums[1] + factor * odd];
                }
            }
            line.0 = sums.map(|[even, odd]| pair(even, odd));
        }
        block
    }
}

/// Pictures, cut into rectangles of output pixels.
struct Rectangles<'a> {
    patches: &'a Patches<'a>,
    /// The norm of each picture, if any.
    norms: &'a [Affine],
    pictures: usize,
    /// Height and width of a rectangle.
    size: (usize, usize),
    /// Steps of a pixel.
    depth: usize,
}

impl<'a> Rectangles<'a> {
    fn new((patches, norms): (&'a Patches<'a>, &'a [Affine]), pictures: usize) -> Self {
        let ((height, width), depth) = (patches.size(), patches.channels().div_ceil(TERMS));
        let wide = match width.is_multiple_of(WIDE) {
            true => WIDE,
            false => width,
        };
        let tiles = (LINES / POINTS / depth.max(1)).max(FEWEST);
        let high = TILE * (tiles / wide.div_ceil(TILE)).max(1);
        Self {
            patches,
            norms,
            pictures,
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
    fn place(&self, strip: usize) -> (usize, [usize; 2], [usize; 2]) {
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
        let inputs = self.patches.channels();
        let rows: Vec<_> = (0..high + 2)
            .map(|i| self.patches.input_row(y + i))
            .collect();
        let columns: Vec<_> = (0..wide + 2)
            .map(|i| self.patches.input_column(x + i))
            .collect();
        let places = || {
            rows.iter()
                .flat_map(|row| columns.iter().map(move |column| (*row, *column)))
        };
        let mut pixels: Vec<_> = places()
            .map(|(row, column)| self.patches.at(picture, row, column))
            .collect();
        let mut normalised = Scratch::new(if self.norms.is_empty() {
            0
        } else {
            pixels.len() * inputs
        });
        if let Some(norm) = self.norms.get(picture) {
            let slots = normalised.chunks_mut(inputs).zip(&pixels).zip(places());
            for ((slot, pixel), (row, column)) in slots {
                match Patches::is_inside(row, column) {
                    true => norm.silu(s, pixel, 0..inputs, slot),
                    false => slot.fill(0.0),
                }
            }
            pixels = normalised.chunks(inputs).collect();
        }
        let (across, down) = (wide.div_ceil(TILE), high.div_ceil(TILE));
        let (count, height) = (down * across, (down * across).next_multiple_of(ROWS));
        let mut lines = Scratch::new(POINTS * self.depth * height);
        for tile in 0..count {
            let first = tile / across * TILE * (wide + 2) + tile % across * TILE;
            let piece = |i: usize| {
                // The last pixels of an odd side are read for no output.
                let at = first + i / PIECE * (wide + 2) + i % PIECE;
                pixels.get(at).copied().unwrap_or(pixels[0])
            };
            let piece = std::array::from_fn(piece);
            transform(s, &piece, &mut lines[tile..], (self.depth, height));
        }
        let number = |tile| if tile < count { tile as u32 } else { NOWHERE };
        let tile = |first| Tile {
            first,
            rows: std::array::from_fn(|i| number(first + i)),
        };
        Strip {
            lines,
            steps: Steps::at((0..self.depth).map(|step| step * height)),
            tiles: (0..count).step_by(ROWS).map(tile).collect(),
        }
    }
}

/// Transforms a piece of the input and rounds it: the lines of its points and steps are
/// `height` apart.
#[inline(always)]
fn transform<S: Simd>(
    s: S,
    piece: &[&[f32]; POINTS],
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
        for (point, terms) in points.iter().enumerate() {
            lines[(point * depth + step) * height] = line(terms);
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

/// The one-dimensional inverse transform of products.
#[inline(always)]
fn outwards<S: Simd>(s: S, m: [S::f32s; PIECE]) -> [S::f32s; TILE] {
    [
        s.add_f32s(s.add_f32s(m[0], m[1]), m[2]),
        s.sub_f32s(s.sub_f32s(m[1], m[2]), m[3]),
    ]
}

/// A rectangle and some panels of the output.
struct Compute<'a, 'b> {
    unit: Unit,
    rectangles: &'a Rectangles<'a>,
    filters: &'a Filters,
    finish: &'a Added<'a>,
    task: Task<'b>,
}

impl WithSimd for Compute<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let session = Session::new(self.unit);
        let strip = self.rectangles.strip(s, self.task.strip);
        let places = self.places(&strip.tiles);
        let of_point = strip.lines.len() / POINTS;
        let mut sums = vec![Sums::default(); POINTS];
        for panel in self.task.panels.clone() {
            for (tiles, places) in strip.tiles.chunks(2).zip(places.chunks(2 * ROWS)) {
                for (point, sums) in sums.iter_mut().enumerate() {
                    let operands = Operands {
                        a: &strip.lines[point * of_point..][..of_point],
                        rows: (tiles[0].first, tiles.get(1).map(|tile| tile.first)),
                        steps: &strip.steps,
                        b: self.filters.point(panel, point),
                    };
                    session.multiply(operands, Start::Zero, sums);
                }
                for (i, places) in places.iter().enumerate() {
                    self.write(s, (&sums, i), panel, places);
                }
            }
        }
    }
}

impl Compute<'_, '_> {
    /// Where the outputs of each tile go.
    fn places(&self, tiles: &[Tile]) -> Vec<[Option<Place>; TILE * TILE]> {
        let (_, _, [high, wide]) = self.rectangles.place(self.task.strip);
        let across = wide.div_ceil(TILE);
        let place = |tile: u32, i: usize| {
            let tile = (tile != NOWHERE).then_some(tile as usize)?;
            let (y, x) = (
                tile / across * TILE + i / TILE,
                tile % across * TILE + i % TILE,
            );
            let row = (y < high && x < wide).then_some(y * wide + x)?;
            self.task.place(row as u32, |row| self.finish.group(row))
        };
        let tiles = tiles.iter().flat_map(|tile| tile.rows);
        tiles
            .map(|tile| std::array::from_fn(|i| place(tile, i)))
            .collect()
    }

    /// Writes the outputs of a tile, row `i` of the sums, to a panel.
    #[inline(always)]
    fn write<S: Simd>(
        &mut self,
        s: S,
        (sums, i): (&[Sums], usize),
        panel: usize,
        places: &[Option<Place>; TILE * TILE],
    ) {
        let mut values = [[0.0; COLUMNS]; TILE * TILE];
        for v in 0..COLUMNS / S::F32_LANES {
            let mut columns = [[s.splat_f32s(0.0); TILE]; PIECE];
            for (x, column) in columns.iter_mut().enumerate() {
                let mut points = [s.splat_f32s(0.0); PIECE];
                for (y, point) in points.iter_mut().enumerate() {
                    *point = S::as_simd_f32s(&sums[y * PIECE + x].0[i]).0[v];
                }
                *column = outwards(s, points);
            }
            for y in 0..TILE {
                let mut line = [s.splat_f32s(0.0); PIECE];
                for (value, column) in line.iter_mut().zip(&columns) {
                    *value = column[y];
                }
                let line = outwards(s, line);
                for (x, value) in line.iter().enumerate() {
                    S::as_mut_simd_f32s(&mut values[y * TILE + x]).0[v] = *value;
                }
            }
        }
        for (values, place) in values.iter().zip(places) {
            if let Some(place) = place {
                let (out, row) = self.task.out(place, panel);
                self.finish.write(s, [values], row, panel * COLUMNS, out);
            }
        }
    }
}
