//! Sums of outer products in bf16, for the gradient of a product's right side: samples are the
//! terms, 32 of them a step.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    Unit,
    lines::{Line, Operands, ROWS, Start, Steps, Sums, TERMS, pair},
    unit::Session,
};
use crate::kernel::{
    gemm::{Matrix, outer::Samples},
    pages::room,
    parts::{fill, map},
    scratch::Scratch,
    simd::vectorised,
};

/// Steps whose right side stays in a small L1 cache.
const SPAN: usize = 8;

/// The left side: the samples of a matrix, rounded and transposed.
pub(in crate::kernel) struct Transposed {
    /// For each step, and 16 terms of a sample, the lines of the terms.
    tiles: Vec<[Line; ROWS]>,
    samples: usize,
    /// Terms of a sample.
    terms: usize,
}

impl Transposed {
    /// Rounds the first samples, which are rows, of a matrix on all threads.
    pub(in crate::kernel) fn new(matrix: Matrix, samples: usize) -> Self {
        let high = matrix.terms.div_ceil(ROWS);
        let count = samples.div_ceil(TERMS) * high;
        let mut tiles = room(count);
        fill(&mut tiles, count, &|i| {
            vectorised(Transpose {
                matrix,
                samples: (i / high * TERMS, samples),
                first: i % high * ROWS,
            })
        });
        Self {
            tiles,
            samples,
            terms: matrix.terms,
        }
    }

    /// The steps.
    fn steps(&self) -> usize {
        self.samples.div_ceil(TERMS)
    }

    /// Tiles of a step.
    fn high(&self) -> usize {
        self.terms.div_ceil(ROWS)
    }
}

/// A tile of the left side.
struct Transpose<'a> {
    matrix: Matrix<'a>,
    /// The first sample of the step, and their number in all.
    samples: (usize, usize),
    /// The first term.
    first: usize,
}

impl WithSimd for Transpose<'_> {
    type Output = [Line; ROWS];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [Line; ROWS] {
        let (start, end) = self.samples;
        let columns = self.first..self.matrix.terms.min(self.first + ROWS);
        let mut rows = [&[][..]; TERMS];
        for (row, sample) in rows.iter_mut().zip(start..end) {
            *row = &self.matrix.values[sample * self.matrix.stride..][columns.clone()];
        }
        let mut tile = [Line::default(); ROWS];
        for i in 0..ROWS {
            let pairs = line(rows[2 * i], rows[2 * i + 1]);
            for (line, pair) in tile.iter_mut().zip(pairs.0) {
                line.0[i] = pair;
            }
        }
        tile
    }
}

/// The pairs of two samples' first 16 terms at most; none are zeros.
#[inline(always)]
fn line(even: &[f32], odd: &[f32]) -> Line {
    let (even, odd) = (first_terms(even), first_terms(odd));
    let mut line = Line::default();
    for ((slot, even), odd) in line.0.iter_mut().zip(even).zip(odd) {
        *slot = pair(even, odd);
    }
    line
}

#[inline(always)]
fn first_terms(sample: &[f32]) -> [f32; ROWS] {
    if let Some(whole) = sample.first_chunk() {
        return *whole;
    }
    let mut terms = [0.0; ROWS];
    for (slot, x) in terms.iter_mut().zip(sample) {
        *slot = *x;
    }
    terms
}

/// Some terms of a sample, none beyond the last sample.
#[inline(always)]
fn terms<'a>(samples: &[&'a [f32]], sample: usize, terms: &Range<usize>) -> &'a [f32] {
    match samples.get(sample) {
        Some(sample) => &sample[terms.clone()],
        None => &[],
    }
}

/// The sums over samples of the outer products of a's terms and b's, for each of several b of
/// as many samples and terms.
pub(in crate::kernel) struct OuterSums {
    /// For each panel, the tiles of two times 16 of a's terms.
    panels: Vec<Vec<Sums>>,
    /// Columns of 16 terms of a b.
    columns: usize,
}

impl OuterSums {
    /// Computes the sums for b of so many terms on all threads.
    pub(in crate::kernel) fn new(
        unit: Unit,
        a: &Transposed,
        b: &[impl Samples],
        terms: usize,
    ) -> Self {
        let columns = terms.div_ceil(ROWS);
        let column = |i: usize| {
            let first = i % columns * ROWS;
            let terms = first..terms.min(first + ROWS);
            (i < b.len() * columns).then_some((i / columns, terms))
        };
        let panels = (0..(b.len() * columns).div_ceil(2)).collect();
        let panels = map(panels, &|_, i: usize| {
            let columns = [2 * i, 2 * i + 1].map(column);
            vectorised(Panel {
                unit,
                a,
                b,
                columns,
            })
        });
        Self { panels, columns }
    }

    /// The sum of a's term `row` and a b's term `column`.
    #[inline(always)]
    pub(in crate::kernel) fn at(&self, b: usize, row: usize, column: usize) -> f32 {
        let half = b * self.columns + column / ROWS;
        let sums = &self.panels[half / 2][row / (2 * ROWS)];
        sums.0[row % (2 * ROWS)][half % 2 * ROWS + column % ROWS]
    }
}

/// A panel of the right side: 16 terms of one b, and the next ones, which may be another's.
struct Panel<'a, B> {
    unit: Unit,
    a: &'a Transposed,
    b: &'a [B],
    /// The b of each and its terms.
    columns: [Option<(usize, Range<usize>)>; 2],
}

impl<B: Samples> WithSimd for Panel<'_, B> {
    type Output = Vec<Sums>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<Sums> {
        let (session, high) = (Session::new(self.unit), self.a.high());
        let mut sums = vec![Sums::default(); high.div_ceil(2)];
        let mut lines = Scratch::new(SPAN * 2 * ROWS);
        lines.fill(Line::default());
        for first in (0..self.a.steps()).step_by(SPAN) {
            let count = SPAN.min(self.a.steps() - first);
            self.round(first * TERMS, &mut lines[..count * 2 * ROWS]);
            let a = self.a.tiles[first * high..][..count * high].as_flattened();
            let steps = Steps::at((0..count).map(|step| step * high * ROWS));
            for (i, sums) in sums.iter_mut().enumerate() {
                let row = 2 * i * ROWS;
                let operands = Operands {
                    a,
                    rows: (row, (2 * i + 1 < high).then_some(row + ROWS)),
                    count: 2 * ROWS,
                    steps: &steps,
                    b: &lines,
                };
                session.multiply(operands, Start::Sums, sums);
            }
        }
        sums
    }
}

impl<B: Samples> Panel<'_, B> {
    /// Rounds the samples from `start` on.
    #[inline(always)]
    fn round(&self, start: usize, lines: &mut [Line]) {
        let end = self.a.samples.min(start + lines.len() / (2 * ROWS) * TERMS);
        let (mut samples, mut held) = (Vec::new(), None);
        for (half, column) in self.columns.iter().enumerate() {
            let Some((b, columns)) = column else { continue };
            if held.replace(b) != Some(b) {
                samples = self.b[*b].samples(start..end);
            }
            for (step, lines) in lines.chunks_mut(2 * ROWS).enumerate() {
                let lines = &mut lines[half * ROWS..][..ROWS];
                for (i, slot) in lines.iter_mut().enumerate() {
                    let even = step * TERMS + 2 * i;
                    *slot = line(
                        terms(&samples, even, columns),
                        terms(&samples, even + 1, columns),
                    );
                }
            }
        }
    }
}
