//! The feed-forward network of a transformer, a strip of rows at a time: what lies between its
//! two layers, four times as wide as its input, stays in the cache of a thread.

use pulp::{Simd, WithSimd};

use super::{
    Pairs, Rows,
    finish::{Added, Finish, Gated, OutputRow},
    lines::{COLUMNS, Line, Operands, ROWS, Start, Steps, Sums, line},
    product::{Left, Strip},
    unit::{Session, Unit},
};
use crate::kernel::{
    epilogue::Addends, gemm::Matrix, parts::each_part, scratch::Scratch, simd::vectorised,
};

/// Lines between the layers, half of a small L2 cache.
const BETWEEN: usize = 1 << 14;

/// Most rows of a strip.
const TALLEST: usize = 256;

/// A layer with GEGLU and a layer after it.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct FeedForward<'a> {
    pub unit: Unit,
    /// To two halves of the width between the layers, a multiple of 32.
    pub inner: &'a Pairs,
    pub inner_bias: Option<&'a [f32]>,
    pub outer: &'a Pairs,
    pub addends: Addends<'a>,
}

impl FeedForward<'_> {
    /// Whether there is work for all threads.
    pub(in crate::kernel) fn pays(inner: &Pairs, rows: usize) -> bool {
        let strips = rows / height(inner.columns() / 2).max(1);
        strips >= 2 * rayon::current_num_threads()
    }

    /// Overwrites `out` (rows, columns) with the network of the rows of x, on all threads.
    pub(in crate::kernel) fn compute(&self, x: Matrix, out: &mut [f32]) {
        let (d, columns) = (self.inner.columns() / 2, self.outer.columns());
        let (rows, height) = (out.len() / columns, height(d));
        let x = Rows::of_height(x, rows, height);
        let finish = Added::new(self.addends, rows, columns);
        each_part(out, height * columns, &|strip, out| {
            vectorised(Compute {
                network: self,
                finish: &finish,
                d,
                strip: (&x, strip),
                first: strip * height,
                out,
            });
        });
    }
}

/// Rows of a strip where the layers are d values apart.
fn height(d: usize) -> usize {
    let fit = BETWEEN / d.div_ceil(COLUMNS).max(1) / (2 * ROWS) * (2 * ROWS);
    fit.clamp(2 * ROWS, TALLEST)
}

struct Compute<'a> {
    network: &'a FeedForward<'a>,
    finish: &'a Added<'a>,
    /// The width between the layers.
    d: usize,
    strip: (&'a Rows<'a>, usize),
    /// The first row of the strip.
    first: usize,
    /// Its rows of the output.
    out: &'a mut [f32],
}

impl WithSimd for Compute<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let session = Session::new(self.network.unit);
        let strip = self.strip.0.strip(s, self.strip.1);
        let height = strip.tiles.len() * ROWS;
        let mut between = Scratch::new(self.d / COLUMNS * height);
        self.inner(s, &session, &strip, &mut between);
        self.outer(s, &session, height, &between);
    }
}

impl Compute<'_> {
    /// The first layer: a panel of its output, gated and rounded, is a step of the second.
    #[inline(always)]
    fn inner<S: Simd>(&self, s: S, session: &Session, strip: &Strip, between: &mut [Line]) {
        let (height, inner) = (strip.tiles.len() * ROWS, self.network.inner);
        let gate = Gated {
            bias: self.network.inner_bias,
            d: self.d,
        };
        let mut sums = [Sums::default(), Sums::default()];
        for (i, between) in between.chunks_mut(height).enumerate() {
            let panels = gate.panels(i).map(|panel| inner.panel(panel));
            for (tiles, between) in strip.tiles.chunks(2).zip(between.chunks_mut(2 * ROWS)) {
                for (b, sums) in panels.iter().zip(&mut sums) {
                    let operands = Operands {
                        a: &strip.lines,
                        rows: (tiles[0].first, tiles.get(1).map(|tile| tile.first)),
                        count: 2 * ROWS,
                        steps: &strip.steps,
                        b,
                    };
                    session.multiply(operands, Start::Zero, sums);
                }
                for (row, slot) in between.iter_mut().enumerate() {
                    let mut gated = [0.0; COLUMNS];
                    let sums = sums.each_ref().map(|sums| &sums.0[row]);
                    let nowhere = OutputRow::default();
                    gate.write(s, sums, nowhere, i * COLUMNS, &mut gated);
                    *slot = line(&gated);
                }
            }
        }
    }

    /// The second layer.
    #[inline(always)]
    fn outer<S: Simd>(&mut self, s: S, session: &Session, height: usize, between: &[Line]) {
        let (outer, columns) = (self.network.outer, self.network.outer.columns());
        let steps = Steps::at((0..self.d / COLUMNS).map(|step| step * height));
        let mut sums = Sums::default();
        for panel in 0..outer.panels() {
            let column = panel * COLUMNS;
            let end = columns.min(column + COLUMNS);
            for first in (0..height).step_by(2 * ROWS) {
                let second = first + ROWS;
                let operands = Operands {
                    a: between,
                    rows: (first, (second < height).then_some(second)),
                    count: 2 * ROWS,
                    steps: &steps,
                    b: outer.panel(panel),
                };
                session.multiply(operands, Start::Zero, &mut sums);
                let rows = self.out.chunks_mut(columns).skip(first);
                for (i, (out, sums)) in rows.zip(&sums.0).enumerate() {
                    let index = self.first + first + i;
                    let row = OutputRow {
                        index,
                        group: self.finish.group(index),
                    };
                    self.finish
                        .write(s, [sums], row, column, &mut out[column..end]);
                }
            }
        }
    }
}
