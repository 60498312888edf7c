//! 3x3 convolution with a quarter of the multiplications: F(4x4, 3x3)
//! (A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks",
//! arXiv 1509.09308).
//!
//! A tile of 4x4 outputs is the inverse transform of 36 products of a transformed
//! 6x6 piece of the input and transformed filters. The interpolation points are
//! 0, 3/4, -3/4, 3/2, -3/2 instead of the usual 0, 1, -1, 2, -2, which lose a digit
//! more (measured relative root mean square error of the output: 1.7e-6 over 320
//! channels, against 3.3e-6; 3e-7 for the plain sum).
//!
//! Filters are transformed during the convolution, a few channels at a time, into a
//! buffer in the cache: that costs a few percent of the time, whereas stored
//! transforms would take four times the weights' memory.

mod transform;

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::patches::Patches;
use crate::kernel::{
    epilogue::Addends,
    gemm::{
        Block, cut,
        packed::{PackedMatrix, Panel},
    },
    parts::{each, each_part},
    scratch::Scratch,
    simd::{lanes, put, vectorised},
};
use transform::{filter, inwards, outwards};

/// Side of a tile of outputs.
const TILE: usize = 4;

/// Side of a tile's input.
const PIECE: usize = 6;

/// Products per tile.
const POINTS: usize = PIECE * PIECE;

/// Tiles whose pieces are stored together.
const GROUP: usize = 8;

/// Tiles that are processed at once.
const TILES: usize = 64;

/// Input channels whose filters are transformed at once.
const CHANNELS: usize = 64;

/// Unused values between buffers that are written alternately, to avoid conflicts in
/// the L1 cache.
const GAP: usize = 16;

/// Whether the algorithm is applicable and faster for a convolution that keeps the size. How
/// many pictures there are does not matter: each is rounded as it is alone.
pub(in crate::kernel) fn pays(
    inputs: usize,
    outputs: usize,
    (height, width): (usize, usize),
) -> bool {
    let tiles = height.div_ceil(TILE) * width.div_ceil(TILE);
    let waste = (tiles * TILE * TILE) as f64 / (height * width) as f64;
    // With fewer tiles, the transform of the filters takes too much time.
    let wide = inputs.is_multiple_of(16) && inputs >= 64 && outputs >= 32;
    wide && tiles >= 4 && waste < 1.6
}

/// Overwrites `out` (b, h, w, outputs) with the convolution of 3x3 patches and packed
/// weights, whose terms are ordered tap by tap.
pub(in crate::kernel) fn convolve(
    patches: &Patches,
    weight: &PackedMatrix,
    addends: Addends,
    out: &mut [f32],
) {
    let (height, width) = patches.size();
    let outputs = weight.columns();
    let grid = Grid {
        patches,
        width,
        height,
        across: width.div_ceil(TILE),
        down: height.div_ceil(TILE),
        inputs: weight.terms() / 9,
    };
    let rows = out.len() / outputs;
    each(grid.strips(out, outputs), &|_, strip| {
        let first = grid.pixel_line(strip.line) * width;
        grid.fill(strip.line, strip.lines, weight, strip.out);
        addends.add_to_rows(strip.out, outputs, first, rows);
    });
}

/// Some lines of tiles, numbered over all pictures, and their outputs.
struct Strip<'a> {
    line: usize,
    lines: usize,
    out: &'a mut [f32],
}

/// The tiles of a batch of pictures.
struct Grid<'a> {
    patches: &'a Patches<'a>,
    width: usize,
    height: usize,
    /// Tiles per line.
    across: usize,
    /// Lines of tiles per picture.
    down: usize,
    inputs: usize,
}

impl Grid<'_> {
    /// Splits the outputs (b, h, w, outputs) into strips of about [`TILES`]
    /// tiles: some lines of one picture, or several complete small pictures.
    fn strips<'o>(&self, out: &'o mut [f32], outputs: usize) -> Vec<Strip<'o>> {
        let picture = self.height * self.width * outputs;
        let pictures = (TILES / (self.across * self.down)).max(1);
        let lines = (TILES / self.across).clamp(1, self.down);
        let mut strips = Vec::new();
        let mut line = 0;
        for several in out.chunks_mut(pictures * picture) {
            let (size, lines) = match pictures {
                1 => (lines * TILE * self.width * outputs, lines),
                _ => (several.len(), several.len() / picture * self.down),
            };
            let end = line + several.len() / picture * self.down;
            for out in several.chunks_mut(size) {
                let lines = lines.min(end - line);
                strips.push(Strip { line, lines, out });
                line += lines;
            }
        }
        strips
    }

    /// The first line of pixels of a line of tiles, numbered over all pictures.
    fn pixel_line(&self, line: usize) -> usize {
        line / self.down * self.height + line % self.down * TILE
    }

    /// The picture and the first pixel (y, x) of a tile.
    fn place(&self, first_line: usize, tile: usize) -> (usize, usize, usize) {
        let line = first_line + tile / self.across;
        let x = tile % self.across * TILE;
        (line / self.down, line % self.down * TILE, x)
    }

    /// Computes the outputs of some lines of tiles.
    fn fill(&self, first_line: usize, lines: usize, weight: &PackedMatrix, out: &mut [f32]) {
        let outputs = weight.columns();
        let cuts: Vec<_> = weight.panels().iter().map(|panel| panel.column).collect();
        let mut parts = cut(out, outputs, &cuts);
        for start in (0..lines * self.across).step_by(TILES) {
            let tiles = start..(start + TILES).min(lines * self.across);
            let pieces = self.pieces(first_line, tiles.clone());
            let parts = weight.panels().iter().zip(&mut parts);
            each(parts.collect(), &|_, (&panel, out)| {
                vectorised(Products {
                    grid: self,
                    weight,
                    panel,
                    pieces: &pieces,
                    first_line,
                    tiles: tiles.clone(),
                    out,
                });
            });
        }
    }

    /// The transformed pieces of some tiles, (groups, points, GROUP, inputs) with
    /// a gap after each point.
    fn pieces(&self, first_line: usize, tiles: Range<usize>) -> Scratch {
        let of_group = POINTS * (GROUP * self.inputs + GAP);
        let mut pieces = Scratch::new(tiles.len().div_ceil(GROUP) * of_group);
        each_part(&mut pieces, of_group, &|group, out| {
            let first = tiles.start + group * GROUP;
            for tile in first..(first + GROUP).min(tiles.end) {
                let (image, y, x) = self.place(first_line, tile);
                vectorised(Piece {
                    pixels: &self.patches.piece(image, y, x),
                    inputs: self.inputs,
                    out: &mut out[(tile - first) * self.inputs..],
                });
            }
        });
        pieces
    }
}

/// The transform of one piece of the input.
struct Piece<'a> {
    /// By reference: moved into the vectorised code, they make it twice as slow.
    pixels: &'a [[&'a [f32]; PIECE]; PIECE],
    inputs: usize,
    /// From the tile's first point on; points are GROUP * inputs + GAP apart.
    out: &'a mut [f32],
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut points: Vec<_> = self
            .out
            .chunks_mut(GROUP * self.inputs + GAP)
            .map(|point| S::as_mut_simd_f32s(&mut point[..self.inputs]).0)
            .collect();
        let vectors = self.inputs / S::F32_LANES;
        for c in 0..vectors {
            let mut columns = [[s.splat_f32s(0.0); PIECE]; PIECE];
            for (x, column) in columns.iter_mut().enumerate() {
                for (value, line) in column.iter_mut().zip(self.pixels) {
                    *value = S::as_simd_f32s(line[x]).0[c];
                }
                *column = inwards(s, *column);
            }
            for y in 0..PIECE {
                let mut line = [s.splat_f32s(0.0); PIECE];
                for (value, column) in line.iter_mut().zip(&columns) {
                    *value = column[y];
                }
                let line = inwards(s, line);
                for (x, value) in line.iter().enumerate() {
                    points[y * PIECE + x][c] = *value;
                }
            }
        }
    }
}

/// The outputs of some tiles in the columns of one panel.
struct Products<'a, 'b> {
    grid: &'a Grid<'a>,
    weight: &'a PackedMatrix,
    panel: Panel,
    pieces: &'a [f32],
    first_line: usize,
    tiles: Range<usize>,
    out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Products<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let width = self.panel.vectors * lanes();
        let (count, inputs) = (self.tiles.len(), self.grid.inputs);
        let mut sums = Scratch::new(POINTS * count * width);
        let mut transformed = Scratch::new(POINTS * (CHANNELS.min(inputs) * width + GAP));
        let mut slots: Vec<_> = sums.chunks_mut(width).collect(); // (points, tiles)
        for start in (0..inputs).step_by(CHANNELS) {
            let channels = start..(start + CHANNELS).min(inputs);
            let of_point = channels.len() * width;
            self.transform(s, channels.clone(), &mut transformed);
            let points = transformed.chunks(of_point + GAP);
            let points = points.map(|point| &point[..of_point]);
            let points = points.zip(slots.chunks_mut(count));
            for (point, (b, out)) in points.enumerate() {
                let rows: Vec<_> = (0..count)
                    .map(|tile| &self.piece(point, tile)[channels.clone()])
                    .collect();
                let block = Block {
                    rows: &rows,
                    b,
                    at: 0,
                    overwrite: start == 0,
                };
                block.accumulate(s, self.panel.vectors, out);
            }
        }
        self.finish(s, &sums);
    }
}

impl Products<'_, '_> {
    /// One transformed value per channel of a tile's piece.
    fn piece(&self, point: usize, tile: usize) -> &[f32] {
        let inputs = self.grid.inputs;
        let of_point = GROUP * inputs + GAP;
        let at = (tile / GROUP * POINTS + point) * of_point + tile % GROUP * inputs;
        &self.pieces[at..][..inputs]
    }

    /// Transforms the filters of some channels: (points, channels, width) with a
    /// gap after each point.
    #[inline(always)]
    fn transform<S: Simd>(&self, s: S, channels: Range<usize>, out: &mut [f32]) {
        let of_tap = self.weight.scratch(channels.len());
        let mut scratch = Scratch::new(9 * of_tap);
        let mut rest = &mut *scratch;
        let mut taps = [&[][..]; 9];
        for (tap, slot) in taps.iter_mut().enumerate() {
            let (scratch, others) = rest.split_at_mut(of_tap);
            rest = others;
            let first = tap * self.grid.inputs + channels.start;
            let terms = first..first + channels.len();
            *slot = S::as_simd_f32s(self.weight.block(self.panel, terms, scratch)).0;
        }
        let count = taps[0].len();
        let stride = count + GAP / S::F32_LANES;
        let (out, _) = S::as_mut_simd_f32s(out);
        for i in 0..count {
            let mut columns = [[s.splat_f32s(0.0); PIECE]; 3];
            for (x, column) in columns.iter_mut().enumerate() {
                *column = filter(s, [taps[x][i], taps[3 + x][i], taps[6 + x][i]]);
            }
            for y in 0..PIECE {
                let line = filter(s, [columns[0][y], columns[1][y], columns[2][y]]);
                for (x, value) in line.iter().enumerate() {
                    out[(y * PIECE + x) * stride + i] = *value;
                }
            }
        }
    }

    /// Computes the output by the inverse transform of the sums (points, tiles, width).
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S, sums: &[f32]) {
        let vectors = self.panel.vectors;
        let (sums, _) = S::as_simd_f32s(sums);
        let count = self.tiles.len();
        for (i, tile) in self.tiles.clone().enumerate() {
            let (image, y, x) = self.grid.place(self.first_line, tile);
            let begins = self.grid.pixel_line(self.first_line);
            let line = image * self.grid.height + y - begins;
            let inside = TILE.min(self.grid.height - y);
            for v in 0..vectors {
                let mut columns = [[s.splat_f32s(0.0); TILE]; PIECE];
                for (x, column) in columns.iter_mut().enumerate() {
                    let mut sum = [s.splat_f32s(0.0); PIECE];
                    for (y, sum) in sum.iter_mut().enumerate() {
                        *sum = sums[((y * PIECE + x) * count + i) * vectors + v];
                    }
                    *column = outwards(s, sum);
                }
                for dy in 0..inside {
                    let mut values = [s.splat_f32s(0.0); PIECE];
                    for (value, column) in values.iter_mut().zip(&columns) {
                        *value = column[dy];
                    }
                    let values = outwards(s, values);
                    self.store(s, (line + dy, x), v, &values);
                }
            }
        }
    }

    /// Stores the part of a line of outputs that is inside of the picture.
    #[inline(always)]
    fn store<S: Simd>(&mut self, s: S, (y, x): (usize, usize), v: usize, line: &[S::f32s; TILE]) {
        let width = self.grid.width;
        let inside = TILE.min(width - x);
        let pixels = &mut self.out[y * width + x..][..inside];
        for (pixel, value) in pixels.iter_mut().zip(line) {
            put(s, &[*value], false, &mut pixel[v * S::F32_LANES..]);
        }
    }
}
