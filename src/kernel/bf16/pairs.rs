//! The right side of a product: pairs of terms, rounded to bf16 and packed once.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::lines::{COLUMNS, Line, ROWS, TERMS, rounded, widened};
use crate::kernel::{gemm::Matrix, pages::unset, parts::each_chunk, simd::vectorised};

/// A matrix of steps of 32 terms and panels of 32 columns.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Pairs {
    columns: usize,
    steps: usize,
    /// Panel by panel, and in a panel step by step, [`BLOCK`] lines each.
    lines: Vec<Line>,
}

/// Lines of a step of a panel: 16 with the pairs of 16 columns, and 16 of the next 16.
pub(super) const BLOCK: usize = 2 * ROWS;

impl Pairs {
    /// Packs values in a matrix of `steps` and `columns`, on all threads. `of(step, column)` is
    /// the index of the first of a step's terms in the values, how far apart they are, and how
    /// many, up to 32.
    pub(in crate::kernel) fn pack(
        values: &[f32],
        (steps, columns): (usize, usize),
        of: impl Fn(usize, usize) -> Terms + Sync,
    ) -> Self {
        let mut lines = unset(columns.div_ceil(COLUMNS) * steps * BLOCK);
        each_chunk(&mut lines, BLOCK, &|i, block| {
            let (panel, step) = (i / steps, i % steps);
            let columns = panel * COLUMNS..columns.min((panel + 1) * COLUMNS);
            let terms = |column| of(step, column);
            vectorised(PackBlock(values, columns, terms, block));
        });
        Self::of_lines(lines, steps, columns)
    }

    /// Packs the first rows of a matrix.
    pub(in crate::kernel) fn of_rows(matrix: Matrix, rows: usize) -> Self {
        let of = |step, column| Terms {
            first: step * TERMS * matrix.stride + column,
            stride: matrix.stride,
            count: TERMS.min(rows - step * TERMS),
        };
        Self::pack(matrix.values, (rows.div_ceil(TERMS), matrix.terms), of)
    }

    /// Packs the transpose of the first rows of a matrix.
    pub(in crate::kernel) fn of_transposed(matrix: Matrix, rows: usize) -> Self {
        let of = |step, row| Terms {
            first: row * matrix.stride + step * TERMS,
            stride: 1,
            count: TERMS.min(matrix.terms - step * TERMS),
        };
        Self::pack(matrix.values, (matrix.terms.div_ceil(TERMS), rows), of)
    }

    /// Packed lines of `steps` and `columns`.
    pub(super) fn of_lines(lines: Vec<Line>, steps: usize, columns: usize) -> Self {
        Self {
            columns,
            steps,
            lines,
        }
    }

    /// Number of columns.
    pub(in crate::kernel) fn columns(&self) -> usize {
        self.columns
    }

    /// Number of steps.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// The lines of a panel, step by step.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &[Line] {
        let count = self.steps * BLOCK;
        &self.lines[panel * count..][..count]
    }

    /// A value as it was rounded.
    pub(in crate::kernel) fn value(&self, step: usize, term: usize, column: usize) -> f32 {
        let half = column % COLUMNS / ROWS;
        let line = (column / COLUMNS * self.steps + step) * BLOCK + half * ROWS + term / 2;
        widened(self.lines[line].0[column % ROWS])[term % 2]
    }
}

/// Some terms of a column.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Terms {
    pub first: usize,
    /// The distance between two.
    pub stride: usize,
    pub count: usize,
}

impl Terms {
    /// The terms rounded, and zeros.
    #[inline(always)]
    fn read(self, values: &[f32]) -> [u16; TERMS] {
        let mut terms = [0; TERMS];
        let values = &values[self.first..];
        if self.stride == 1 {
            for (slot, x) in terms.iter_mut().zip(&values[..self.count]) {
                *slot = bits(*x);
            }
        } else {
            let values = values.iter().step_by(self.stride).take(self.count);
            for (slot, x) in terms.iter_mut().zip(values) {
                *slot = bits(*x);
            }
        }
        terms
    }
}

/// The bits of the nearest bf16.
#[inline(always)]
fn bits(x: f32) -> u16 {
    (rounded(x) >> 16) as u16
}

/// Packs some columns of a step: values, columns, the terms of each, and the block.
struct PackBlock<'a, F>(&'a [f32], Range<usize>, F, &'a mut [Line]);

impl<F: Fn(usize) -> Terms> WithSimd for PackBlock<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self(values, columns, terms, block) = self;
        block.fill(Line::default());
        for (i, column) in columns.enumerate() {
            let pairs: [u32; TERMS / 2] = pulp::bytemuck::cast(terms(column).read(values));
            for (line, pair) in block[i / ROWS * ROWS..].iter_mut().zip(pairs) {
                line.0[i % ROWS] = pair;
            }
        }
    }
}
