//! Elementwise formulas, and their sums along rows and columns.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::kernel::{
    pages::unset,
    parts::{share, whole_rows},
    simd::vectorised,
};

/// A formula with N inputs and M outputs, for a vector of each.
///
/// A trait rather than a closure, because only methods can be marked `inline`, which
/// keeps vectors in registers.
pub(in crate::kernel) trait Formula<const N: usize, const M: usize>:
    Copy + Sync
{
    fn at<S: Simd>(self, s: S, x: [S::f32s; N]) -> [S::f32s; M];
}

/// A formula with parameters that depend on the whole row.
pub(in crate::kernel) trait RowFormula<const N: usize, const M: usize>:
    Copy + Sync
{
    type Formula: Formula<N, M>;

    fn of<S: Simd>(self, s: S, row: [&[f32]; N]) -> Self::Formula;
}

impl<F: Formula<N, M>, const N: usize, const M: usize> RowFormula<N, M> for F {
    type Formula = Self;

    #[inline(always)]
    fn of<S: Simd>(self, _: S, _: [&[f32]; N]) -> Self {
        self
    }
}

/// Rows with a stride: 0 to repeat one row.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Rows<'a>(pub &'a [f32], pub usize);

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, row: usize) -> &'a [f32] {
        &self.0[row * self.1..]
    }
}

/// A formula's outputs for rows of `width` values, `values` in total, on all threads.
pub(in crate::kernel) fn map_rows<const N: usize, const M: usize>(
    formula: impl RowFormula<N, M>,
    inputs: [Rows; N],
    width: usize,
    values: usize,
) -> Vec<f32> {
    let mut out = unset(values);
    let (row, part) = (M * width, whole_rows(M * width));
    share(&mut out, part, &|i, out| {
        let inputs = inputs.map(|rows| Rows(rows.row(i * part / row), rows.1));
        map(formula, inputs, width, out);
    });
    out
}

/// Overwrites `out` with a formula's outputs, on this thread. Each row contains M times
/// `width` values, one output after another; the last row may be shorter.
pub(in crate::kernel) fn map<const N: usize, const M: usize>(
    formula: impl RowFormula<N, M>,
    inputs: [Rows; N],
    width: usize,
    out: &mut [f32],
) {
    vectorised(Map {
        formula,
        inputs,
        width: width.max(1),
        out,
    });
}

struct Map<'a, F, const N: usize, const M: usize> {
    formula: F,
    inputs: [Rows<'a>; N],
    width: usize,
    out: &'a mut [f32],
}

impl<F: RowFormula<N, M>, const N: usize, const M: usize> WithSimd for Map<'_, F, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows = self.out.chunks_mut(self.width * M).enumerate();
        for (row, out) in rows {
            let mut outs = out.chunks_mut(self.width);
            let outs: [_; M] = std::array::from_fn(|_| outs.next().unwrap_or_default());
            let inputs = self.inputs.map(|rows| &rows.row(row)[..outs[0].len()]);
            fill(s, self.formula.of(s, inputs), inputs, outs);
        }
    }
}

/// Overwrites `outs`, of equal length, with a formula of the inputs.
#[inline(always)]
pub(in crate::kernel) fn fill<S: Simd, const N: usize, const M: usize>(
    s: S,
    formula: impl Formula<N, M>,
    inputs: [&[f32]; N],
    mut outs: [&mut [f32]; M],
) {
    let whole = outs[0].len() / S::F32_LANES;
    let mut x = [&[][..]; N];
    let mut y: [&mut [S::f32s]; M] = std::array::from_fn(|_| Default::default());
    for (x, input) in x.iter_mut().zip(&inputs) {
        *x = &S::as_simd_f32s(input).0[..whole];
    }
    for (y, out) in y.iter_mut().zip(&mut outs) {
        *y = &mut S::as_mut_simd_f32s(out).0[..whole];
    }
    for i in 0..whole {
        let mut inputs = [s.splat_f32s(0.0); N];
        for (input, x) in inputs.iter_mut().zip(&x) {
            *input = x[i];
        }
        for (y, value) in y.iter_mut().zip(formula.at(s, inputs)) {
            y[i] = value;
        }
    }
    let rest = whole * S::F32_LANES..outs[0].len();
    if !rest.is_empty() {
        let values = formula.at(s, load(s, &inputs, rest.clone()));
        store(s, &mut outs, rest, values);
    }
}

/// The sums of a formula over inputs of equal length.
#[inline(always)]
pub(in crate::kernel) fn sum<S: Simd, const N: usize, const M: usize>(
    s: S,
    formula: impl Formula<N, M>,
    inputs: [&[f32]; N],
) -> [f32; M] {
    let mut sums = [[s.splat_f32s(0.0); M]; CHAINS];
    let (length, step) = (inputs[0].len(), CHAINS * S::F32_LANES);
    let mut at = 0;
    while at + step <= length {
        for sums in &mut sums {
            add(
                s,
                sums,
                formula.at(s, load(s, &inputs, at..at + S::F32_LANES)),
            );
            at += S::F32_LANES;
        }
    }
    let [mut total, others @ ..] = sums;
    for sums in others {
        add(s, &mut total, sums);
    }
    while at < length {
        let columns = at..length.min(at + S::F32_LANES);
        let mut values = formula.at(s, load(s, &inputs, columns.clone()));
        for value in &mut values {
            *value = first(s, *value, columns.len());
        }
        add(s, &mut total, values);
        at += S::F32_LANES;
    }
    total.map(|sum| s.reduce_sum_f32s(sum))
}

/// Independent partial sums, to hide the latency of additions.
const CHAINS: usize = 4;

/// Overwrites `outs`, of equal length, with the sums of a formula over the columns of a
/// few rows.
#[inline(always)]
pub(in crate::kernel) fn sum_columns<S: Simd, const N: usize, const M: usize>(
    s: S,
    formula: impl Formula<N, M>,
    inputs: [Rows; N],
    rows: usize,
    mut outs: [&mut [f32]; M],
) {
    let width = outs[0].len();
    for at in (0..width).step_by(S::F32_LANES) {
        let columns = at..width.min(at + S::F32_LANES);
        let mut sums = [s.splat_f32s(0.0); M];
        for row in 0..rows {
            let mut x = [s.splat_f32s(0.0); N];
            for (x, input) in x.iter_mut().zip(&inputs) {
                *x = vector(s, &input.row(row)[columns.clone()]);
            }
            add(s, &mut sums, formula.at(s, x));
        }
        store(s, &mut outs, columns, sums);
    }
}

/// Adds sums in f32 to totals in f64.
pub(in crate::kernel) fn accumulate(totals: &mut [f64], sums: &[f32]) {
    let pairs = totals.iter_mut().zip(sums);
    pairs.for_each(|(total, sum)| *total += f64::from(*sum));
}

// The compiler unrolls the loops below, but not always the arrays' own `map`, which then
// moves vectors through memory.

/// A vector of some columns of each input.
#[inline(always)]
fn load<S: Simd, const N: usize>(
    s: S,
    inputs: &[&[f32]; N],
    columns: Range<usize>,
) -> [S::f32s; N] {
    let mut x = [s.splat_f32s(0.0); N];
    for (x, input) in x.iter_mut().zip(inputs) {
        *x = vector(s, &input[columns.clone()]);
    }
    x
}

/// A vector of values, padded with zeros.
#[inline(always)]
fn vector<S: Simd>(s: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values).0.first() {
        Some(whole) => *whole,
        None => s.partial_load_f32s(values),
    }
}

/// Overwrites at most a vector of columns.
#[inline(always)]
fn store<S: Simd, const M: usize>(
    s: S,
    outs: &mut [&mut [f32]; M],
    columns: Range<usize>,
    values: [S::f32s; M],
) {
    for (out, value) in outs.iter_mut().zip(values) {
        let out = &mut out[columns.clone()];
        match S::as_mut_simd_f32s(out).0.first_mut() {
            Some(whole) => *whole = value,
            None => s.partial_store_f32s(out, value),
        }
    }
}

/// The first values of a vector, padded with zeros.
#[inline(always)]
fn first<S: Simd>(s: S, x: S::f32s, kept: usize) -> S::f32s {
    const MAX_LANES: usize = 64;
    let mut values = [0f32; MAX_LANES];
    s.partial_store_f32s(&mut values[..S::F32_LANES], x);
    s.partial_load_f32s(&values[..kept])
}

#[inline(always)]
fn add<S: Simd, const M: usize>(s: S, sums: &mut [S::f32s; M], more: [S::f32s; M]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = s.add_f32s(*sum, more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a b + 1 and a.
    #[derive(Clone, Copy)]
    struct Both;

    impl Formula<2, 2> for Both {
        #[inline(always)]
        fn at<S: Simd>(self, s: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 2] {
            [s.mul_add_e_f32s(a, b, s.splat_f32s(1.0)), a]
        }
    }

    /// Small whole numbers, whose sums are exact.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 7) as f32 - 2.0).collect()
    }

    struct Sums<'a>(&'a [f32], &'a [f32], usize);

    impl WithSimd for Sums<'_> {
        type Output = ([f32; 2], [Vec<f32>; 2]);

        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) -> Self::Output {
            let Self(a, b, width) = self;
            let mut columns = [vec![0.0; width], vec![0.0; width]];
            let outs = columns.each_mut().map(Vec::as_mut_slice);
            let inputs = [Rows(a, width), Rows(b, 0)];
            sum_columns(s, Both, inputs, a.len() / width, outs);
            (sum(s, Both, [a, b]), columns)
        }
    }

    #[test]
    fn outputs_lie_side_by_side_in_rows_of_any_width() {
        for (rows, width) in [(1, 1), (3, 5), (2, 16), (4, 33), (1, 100)] {
            let (a, b) = (numbers(rows * width, 3), numbers(width, 5));
            let mut out = vec![0.0; 2 * rows * width];
            map(Both, [Rows(&a, width), Rows(&b, 0)], width, &mut out);
            for (i, a) in a.iter().enumerate() {
                let at = i / width * 2 * width + i % width;
                assert_eq!(out[at], a * b[i % width] + 1.0);
                assert_eq!(out[at + width], *a);
            }
        }
    }

    #[test]
    fn sums_take_in_every_value_once() {
        for (rows, width) in [(1, 1), (3, 5), (2, 16), (4, 33), (5, 131)] {
            let (a, b) = (numbers(rows * width, 3), numbers(rows * width, 5));
            let (total, columns) = vectorised(Sums(&a, &b, width));
            let products = a.iter().zip(&b).map(|(a, b)| a * b + 1.0);
            assert_eq!(total, [products.sum(), a.iter().sum::<f32>()]);
            for i in 0..width {
                let column: Vec<_> = a[i..].iter().step_by(width).collect();
                let product: f32 = column.iter().map(|a| **a * b[i] + 1.0).sum();
                let plain: f32 = column.into_iter().sum();
                assert_eq!([columns[0][i], columns[1][i]], [product, plain]);
            }
        }
    }
}
