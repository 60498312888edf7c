//! Matrix products, blocked for the caches as in K. Goto and R. van de Geijn,
//! "Anatomy of high-performance matrix multiplication" (2008).
//!
//! The left side is never copied: it provides slices of each row's terms, which for a
//! convolution are parts of the picture. The right side is [`PackedMatrix`].

pub(super) mod outer;
pub(super) mod packed;
pub(super) mod tasks;

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{epilogue::Addends, parts::each, scratch::Scratch, simd::put};
use packed::{PackedMatrix, WIDEST};
use tasks::tasks;
pub(super) use tasks::{Task, cut};

/// Rows per task, which fit into its cache; a multiple of every tile's height.
pub(super) const ROWS: usize = 192;

/// Terms that are summed in registers before they are added to the output.
const TERMS: usize = 320;

/// Height of the tallest tile.
const TALLEST: usize = 8;

/// The left side of a product.
pub(super) trait Lhs: Sync {
    /// Number of contiguous terms of a row; the number of all terms is a multiple of it.
    fn run(&self) -> usize;

    /// Terms of a row, within one run.
    fn row(&self, row: usize, terms: Range<usize>) -> &[f32];

    /// The same of consecutive rows.
    fn rows(&self, rows: Range<usize>, terms: Range<usize>) -> Vec<&[f32]> {
        rows.map(|row| self.row(row, terms.clone())).collect()
    }
}

/// A matrix whose rows are `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    /// Terms per row.
    pub terms: usize,
}

impl<'a> Matrix<'a> {
    /// Contiguous rows of a number of terms.
    pub(super) fn contiguous(values: &'a [f32], terms: usize) -> Self {
        let stride = terms;
        Self {
            values,
            stride,
            terms,
        }
    }

    /// Packs the first rows.
    pub(super) fn packed(self, rows: usize) -> PackedMatrix {
        let place = |row, term| row * self.stride + term;
        PackedMatrix::from_values(self.values, (rows, self.terms), place)
    }

    /// Packs the transpose of the first rows.
    pub(super) fn packed_transposed(self, rows: usize) -> PackedMatrix {
        let place = |term, row| row * self.stride + term;
        PackedMatrix::from_values(self.values, (self.terms, rows), place)
    }
}

impl Lhs for Matrix<'_> {
    fn run(&self) -> usize {
        self.terms
    }

    #[inline(always)]
    fn row(&self, row: usize, terms: Range<usize>) -> &[f32] {
        &self.values[row * self.stride..][terms]
    }
}

/// `out` (rows, columns) = a b + addends, on all threads.
pub(super) fn product(a: &impl Lhs, b: &PackedMatrix, addends: Addends, out: &mut [f32]) {
    let columns = b.columns();
    let Some(rows) = out.len().checked_div(columns) else {
        return;
    };
    each(tasks(out, rows, b), &|_, mut task: Task| {
        let (first, from) = (task.rows.start, b.panels()[task.panels.start].column);
        task.compute(a, b);
        for (i, out) in task.out.iter_mut().enumerate() {
            addends.add_to_part(first + i, rows, from, columns, out);
        }
    });
}

struct Product<'a, 'b, A> {
    a: &'a A,
    b: &'a PackedMatrix,
    task: &'a mut Task<'b>,
}

impl<A: Lhs> WithSimd for Product<'_, '_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { a, b, task } = self;
        let panels = &b.panels()[task.panels.clone()];
        let run = a.run();
        let from = panels.first().map_or(0, |panel| panel.column);
        let mut scratch = Scratch::new(b.scratch(TERMS));
        let mut terms = 0..0;
        while terms.end < b.terms() {
            // A block does not extend beyond the run.
            let start = terms.end;
            terms = start..(start + TERMS).min((start / run + 1) * run);
            let rows = a.rows(task.rows.clone(), terms.clone());
            for &panel in panels {
                let block = Block {
                    rows: &rows,
                    b: b.block(panel, terms.clone(), &mut scratch),
                    at: panel.column - from,
                    overwrite: start == 0,
                };
                block.accumulate(s, panel.vectors, &mut task.out);
            }
        }
    }
}

/// Some terms of one panel.
pub(super) struct Block<'a> {
    /// The terms of each row.
    pub rows: &'a [&'a [f32]],
    /// The terms of the panel.
    pub b: &'a [f32],
    /// The panel's first column of the output.
    pub at: usize,
    /// Whether these are the first terms, which overwrite the output.
    pub overwrite: bool,
}

impl Block<'_> {
    /// Adds the products of the rows and a panel of `vectors` to the rows of `out`.
    #[inline(always)]
    pub(super) fn accumulate<S: Simd>(&self, s: S, vectors: usize, out: &mut [&mut [f32]]) {
        match vectors {
            1 => self.fill::<S, 1>(s, out),
            2 => self.fill::<S, 2>(s, out),
            _ => self.fill::<S, WIDEST>(s, out),
        }
    }

    #[inline(always)]
    fn fill<S: Simd, const V: usize>(&self, s: S, out: &mut [&mut [f32]]) {
        // A tile's sums fill most registers.
        match S::REGISTER_COUNT >= 32 {
            true => self.strips::<S, TALLEST, V>(s, out),
            false => self.strips::<S, 4, V>(s, out),
        }
    }

    #[inline(always)]
    fn strips<S: Simd, const M: usize, const V: usize>(&self, s: S, out: &mut [&mut [f32]]) {
        let (strips, rest) = self.rows.as_chunks::<M>();
        for (rows, out) in strips.iter().zip(out.chunks_mut(M)) {
            self.tile::<S, M, V>(s, *rows, out);
        }
        let out = &mut out[strips.len() * M..];
        for (rows, out) in rest.chunks(4).zip(out.chunks_mut(4)) {
            let rows = std::array::from_fn(|i| rows[i.min(rows.len() - 1)]);
            self.tile::<S, 4, V>(s, rows, out);
        }
    }

    /// Computes a tile of M rows; `out` may have fewer.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &self,
        s: S,
        rows: [&[f32]; M],
        out: &mut [&mut [f32]],
    ) {
        let sums = sums::<S, M, V>(s, rows, self.b);
        for (sums, out) in sums.iter().zip(out) {
            put(s, sums, !self.overwrite, &mut out[self.at..]);
        }
    }
}

/// The sums over all terms of M rows times a panel of V vectors.
#[inline(always)]
pub(super) fn sums<S: Simd, const M: usize, const V: usize>(
    s: S,
    mut rows: [&[f32]; M],
    b: &[f32],
) -> [[S::f32s; V]; M] {
    let (b, _) = S::as_simd_f32s(b);
    let (b, _) = b.as_chunks::<V>();
    // A loop rather than `map`, for the compiler to remove bounds checks.
    for row in &mut rows {
        *row = &row[..b.len()];
    }
    let mut sums = [[s.splat_f32s(0.0); V]; M];
    for (term, b) in b.iter().enumerate() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            let a = s.splat_f32s(row[term]);
            for (b, sum) in b.iter().zip(sums) {
                *sum = s.mul_add_e_f32s(a, *b, *sum);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(count: usize, phase: f64) -> Vec<f32> {
        let wave = |i: usize| ((i as f64 * 0.73 + phase).sin() * 2.0) as f32;
        (0..count).map(wave).collect()
    }

    /// The definition, in f64.
    fn plain(a: &[f32], b: &[f32], (rows, terms, columns): (usize, usize, usize)) -> Vec<f64> {
        let value = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            let product = |k| f64::from(a[row * terms + k]) * f64::from(b[k * columns + column]);
            (0..terms).map(product).sum()
        };
        (0..rows * columns).map(value).collect()
    }

    fn worst(out: &[f32], expected: impl Iterator<Item = f64>) -> f64 {
        let gap = out.iter().zip(expected);
        gap.map(|(a, b)| (f64::from(*a) - b).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn a_product_equals_its_definition_for_many_shapes() {
        for (rows, terms, columns) in [
            (1, 1, 1),
            (1, 5, 3),
            (7, 40, 33),
            (8, 321, 48),
            (12, 64, 16),
            (13, 700, 97),
            (77, 31, 200),
            (500, 33, 70),
            (1000, 9, 5),
        ] {
            let (a, b) = (waves(rows * terms, 0.1), waves(terms * columns, 0.7));
            let packed = Matrix::contiguous(&b, columns).packed(terms);
            let left = Matrix::contiguous(&a, terms);
            let mut out = vec![f32::NAN; rows * columns];
            product(&left, &packed, Addends::default(), &mut out);
            let expected = plain(&a, &b, (rows, terms, columns));
            let gap = worst(&out, expected.into_iter()) / terms as f64;
            assert!(gap < 1e-6, "{rows}x{terms}x{columns}: {gap}");
        }
    }

    #[test]
    fn biases_and_residuals_are_added_to_their_rows() {
        let (rows, terms, columns) = (6, 3, 40);
        let (a, b) = (waves(rows * terms, 0.1), waves(terms * columns, 0.7));
        let packed = Matrix::contiguous(&b, columns).packed(terms);
        let left = Matrix::contiguous(&a, terms);
        let (bias, residual) = (waves(2 * columns, 1.0), waves(rows * columns, 2.0));
        let addends = Addends {
            bias: Some(&bias),
            residual: Some(&residual),
        };
        let mut out = vec![0.0; rows * columns];
        product(&left, &packed, addends, &mut out);
        let expected = plain(&a, &b, (rows, terms, columns));
        let expected = expected.into_iter().enumerate().map(|(i, value)| {
            let group = i / columns / 3;
            value + f64::from(bias[group * columns + i % columns]) + f64::from(residual[i])
        });
        assert!(worst(&out, expected) < 1e-5);
    }
}
