//! 3x3 convolution with four ninths of the multiplications: F(2x2, 3x3) (A. Lavin and S. Gray,
//! "Fast algorithms for convolutional neural networks", arXiv 1509.09308).
//!
//! A tile of 2x2 outputs is the inverse transform of 16 products of a transformed 4x4 piece of
//! the input and transformed filters. Both transforms are sums and differences in f32, rounded
//! to bf16 once: the error is 1.7 times that of the plain product in theory, which is less than
//! what activations in bf16 cost. Larger tiles (the f32 kernels have 4x4) would lose a digit.
//!
//! Where the input is a picture upsampled to twice its size, a piece has the values a b b c in
//! each direction, and the third point of its transform, the difference of the two in the middle,
//! is zero: of the 16 products 9 are left, a quarter of those of the plain sum.
//!
//! Only `vdpbf16ps` profits: beside it products take most of the time. By tiles (AMX) they do
//! not, and the transforms would cost more than they save; with 9 products that is not measured.

mod filters;
mod points;
mod rectangles;

use pulp::{Simd, WithSimd};

use super::{
    Pairs,
    finish::{Added, Finish},
    lines::{COLUMNS, Operands, ROWS, Start, Sums, TERMS},
    product::{Left, NOWHERE, Place, Task, Tile, tasks},
    unit::{Session, Unit},
};
use crate::kernel::{
    conv::patches::Patches, epilogue::Addends, group_norm::Affine, parts::each, simd::vectorised,
};
use filters::Filters;
pub(in crate::kernel) use filters::LazyFilters;
use points::Points;
use rectangles::Rectangles;

/// Side of a tile of outputs.
const TILE: usize = 2;

/// Side of a tile's input.
const PIECE: usize = 4;

/// Products per tile, if none is known to be zero.
const POINTS: usize = PIECE * PIECE;

/// Tiles of outputs per rectangle, at least: two tiles of rows.
const FEWEST: usize = 2 * ROWS;

/// Whether the algorithm is applicable and faster. How many pictures there are does not matter:
/// each is rounded as it is alone.
pub(in crate::kernel) fn pays(unit: Unit, patches: &Patches, outputs: usize) -> bool {
    let ((height, width), inputs) = (patches.size(), patches.channels());
    let tiles = height.div_ceil(TILE) * width.div_ceil(TILE);
    let wide = inputs.is_multiple_of(TERMS) && inputs >= 2 * TERMS && outputs >= 2 * COLUMNS;
    // With fewer tiles, the filters take longer to read than to multiply.
    let fewest = match Points::of(patches) {
        Points::All => 8 * FEWEST,
        Points::Doubled => FEWEST,
    };
    matches!(unit, Unit::Dots(_)) && patches.is_3x3() && wide && tiles >= fewest
}

/// Convolves 3x3 patches, normalised before if `norms` has a norm for each picture: `out` (b,
/// height, width, outputs).
pub(in crate::kernel) fn convolve(
    unit: Unit,
    (patches, norms): (&Patches, &[Affine]),
    filters: (&LazyFilters, &Pairs),
    addends: Addends,
    out: &mut [f32],
) {
    let filters = filters.0.of(filters.1, Points::of(patches));
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
        let points = self.filters.points;
        let of_point = strip.lines.len() / points.len();
        // Those of points that are left out stay zeros.
        let mut sums = vec![Sums::default(); POINTS];
        for panel in self.task.panels.clone() {
            for (tiles, places) in strip.tiles.chunks(2).zip(places.chunks(2 * ROWS)) {
                let outputs = places.iter().flatten().flatten();
                self.task.prefetch(outputs, panel, self.finish);
                for (i, point) in points.iter().enumerate() {
                    let operands = Operands {
                        a: &strip.lines[i * of_point..][..of_point],
                        rows: (tiles[0].first, tiles.get(1).map(|tile| tile.first)),
                        count: 2 * ROWS,
                        steps: &strip.steps,
                        b: self.filters.point(panel, i),
                    };
                    session.multiply(operands, Start::Zero, &mut sums[*point]);
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
