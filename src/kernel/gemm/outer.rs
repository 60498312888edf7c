//! Sums of outer products, for the gradient of a product's right side.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Lhs, Matrix, packed::WIDEST};
use crate::kernel::{
    parts::each_part,
    simd::{put, vectorised},
};

/// Rows of the output per task.
const ROWS: usize = 32;

/// Samples whose outer products are summed in registers.
const SAMPLES: usize = 128;

/// A matrix with a row for each sample.
pub(in crate::kernel) trait Samples: Sync {
    fn sample(&self, sample: usize) -> &[f32];

    /// The rows of consecutive samples.
    fn samples(&self, samples: Range<usize>) -> Vec<&[f32]> {
        samples.map(|sample| self.sample(sample)).collect()
    }
}

impl Samples for Matrix<'_> {
    #[inline(always)]
    fn sample(&self, sample: usize) -> &[f32] {
        self.row(sample, 0..self.terms)
    }
}

/// `out` (rows, columns) += the sum over `samples` samples of the outer
/// product of a's row (rows) and b's (columns), on all threads.
pub(in crate::kernel) fn outer(
    a: &impl Samples,
    b: &impl Samples,
    samples: usize,
    columns: usize,
    out: &mut [f32],
) {
    each_part(out, ROWS * columns, &|i, out| {
        let first = i * ROWS;
        vectorised(Outer {
            a,
            b,
            samples,
            columns,
            first,
            out,
        });
    });
}

struct Outer<'a, A, B> {
    a: &'a A,
    b: &'a B,
    samples: usize,
    columns: usize,
    first: usize,
    out: &'a mut [f32],
}

impl<A: Samples, B: Samples> WithSimd for Outer<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for start in (0..self.samples).step_by(SAMPLES) {
            let range = start..(start + SAMPLES).min(self.samples);
            let mut a = self.a.samples(range.clone());
            for sample in &mut a {
                *sample = &sample[self.first..];
            }
            let b = self.b.samples(range);
            let block = Block { a: &a, b: &b };
            match S::REGISTER_COUNT >= 32 {
                true => block.strips::<S, 8>(s, self.columns, self.out),
                false => block.strips::<S, 4>(s, self.columns, self.out),
            }
        }
    }
}

/// A few samples.
struct Block<'a> {
    a: &'a [&'a [f32]],
    b: &'a [&'a [f32]],
}

impl Block<'_> {
    #[inline(always)]
    fn strips<S: Simd, const M: usize>(&self, s: S, columns: usize, out: &mut [f32]) {
        let whole = out.len() / columns / M * M;
        let (strips, rest) = out.split_at_mut(whole * columns);
        for (i, strip) in strips.chunks_mut(M * columns).enumerate() {
            self.panels::<S, M>(s, i * M, columns, strip);
        }
        for (i, row) in rest.chunks_mut(columns).enumerate() {
            self.panels::<S, 1>(s, whole + i, columns, row);
        }
    }

    #[inline(always)]
    fn panels<S: Simd, const M: usize>(&self, s: S, row: usize, columns: usize, out: &mut [f32]) {
        let mut column = 0;
        while column + WIDEST * S::F32_LANES <= columns {
            self.tile::<S, M, WIDEST>(s, row, column, columns, out);
            column += WIDEST * S::F32_LANES;
        }
        while column + 2 * S::F32_LANES <= columns {
            self.tile::<S, M, 2>(s, row, column, columns, out);
            column += 2 * S::F32_LANES;
        }
        while column < columns {
            self.tile::<S, M, 1>(s, row, column, columns, out);
            column += S::F32_LANES;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &self,
        s: S,
        row: usize,
        column: usize,
        columns: usize,
        out: &mut [f32],
    ) {
        let mut sums = [[s.splat_f32s(0.0); V]; M];
        for (a, b) in self.a.iter().zip(self.b) {
            let a = &a[row..][..M];
            let b: [S::f32s; V] = load(s, &b[column..columns]);
            for (a, sums) in a.iter().zip(&mut sums) {
                let a = s.splat_f32s(*a);
                for (b, sum) in b.iter().zip(sums) {
                    *sum = s.mul_add_e_f32s(a, *b, *sum);
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.chunks_mut(columns)) {
            put(s, sums, true, &mut out[column..]);
        }
    }
}

/// The first V vectors of `values`, which may be shorter if V is 1.
#[inline(always)]
fn load<S: Simd, const V: usize>(s: S, values: &[f32]) -> [S::f32s; V] {
    let (whole, _) = S::as_simd_f32s(values);
    match whole.first_chunk::<V>() {
        Some(whole) => *whole,
        None => [s.partial_load_f32s(values); V],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_equals_its_definition_for_many_shapes() {
        for (samples, rows, columns) in [
            (1, 1, 1),
            (3, 4, 5),
            (130, 9, 33),
            (300, 33, 64),
            (17, 70, 97),
            (256, 8, 48),
        ] {
            let wave = |i: usize| (i as f32 * 0.73).sin();
            let a: Vec<f32> = (0..samples * rows).map(wave).collect();
            let b: Vec<f32> = (0..samples * columns).map(|i| wave(i + 7)).collect();
            let mut out = vec![1.0; rows * columns];
            outer(
                &Matrix::contiguous(&a, rows),
                &Matrix::contiguous(&b, columns),
                samples,
                columns,
                &mut out,
            );
            for (i, value) in out.iter().enumerate() {
                let product = |k: usize| {
                    f64::from(a[k * rows + i / columns]) * f64::from(b[k * columns + i % columns])
                };
                let expected = 1.0 + (0..samples).map(product).sum::<f64>();
                let gap = (f64::from(*value) - expected).abs() / samples as f64;
                assert!(gap < 1e-6, "{samples} {rows}x{columns} at {i}: {gap}");
            }
        }
    }
}
