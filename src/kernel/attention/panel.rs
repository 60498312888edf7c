//! The two products of attention, on panels.
//!
//! The columns of a panel are queries, V vectors of them; a row contains one value of
//! each query, such as the scores for one key. Keys and values are then read in their
//! memory layout, softmax needs no sums within a vector, and no vector is partially
//! filled if a head's width is not a multiple of it.

use std::ops::Range;

use pulp::{
    Simd,
    bytemuck::{cast_slice, cast_slice_mut},
};

use crate::kernel::{
    gemm::{Lhs, Matrix, sums},
    simd::exp2,
};

/// A row of a panel.
pub(super) type Row<S, const V: usize> = [<S as Simd>::f32s; V];

#[inline(always)]
pub(super) fn zeros<S: Simd, const V: usize>(s: S, rows: usize) -> Vec<Row<S, V>> {
    vec![[s.splat_f32s(0.0); V]; rows]
}

/// The values of a panel in row-major order.
#[inline(always)]
pub(super) fn flat<S: Simd, const V: usize>(panel: &[Row<S, V>]) -> &[f32] {
    cast_slice(panel.as_flattened())
}

/// Copies rows of a matrix, times `factor`, to the first columns of a panel.
#[inline(always)]
pub(super) fn pack<S: Simd, const V: usize>(
    s: S,
    rows: Matrix,
    range: &Range<usize>,
    factor: f32,
) -> Vec<Row<S, V>> {
    let mut panel = zeros::<S, V>(s, rows.terms);
    let values: &mut [f32] = cast_slice_mut(panel.as_flattened_mut());
    for (column, row) in range.clone().enumerate() {
        let slots = values[column..].iter_mut().step_by(V * S::F32_LANES);
        let row = rows.row(row, 0..rows.terms);
        slots.zip(row).for_each(|(slot, x)| *slot = factor * x);
    }
    panel
}

/// Copies the first columns of a panel to rows.
#[inline(always)]
pub(super) fn unpack<S: Simd, const V: usize>(panel: &[Row<S, V>], rows: &mut [&mut [f32]]) {
    let width = V * S::F32_LANES;
    for (column, row) in rows.iter_mut().enumerate() {
        let values = flat::<S, V>(panel)[column..].iter().step_by(width);
        row.iter_mut().zip(values).for_each(|(slot, x)| *slot = *x);
    }
}

/// `out` = a b, for the first rows of `a`.
#[inline(always)]
pub(super) fn multiply<S: Simd, const V: usize>(
    s: S,
    a: Matrix,
    b: &[Row<S, V>],
    out: &mut [Row<S, V>],
) {
    match S::REGISTER_COUNT >= 32 {
        true => multiply_strips::<S, 8, V>(s, a, b, out),
        false => multiply_strips::<S, 4, V>(s, a, b, out),
    }
}

#[inline(always)]
fn multiply_strips<S: Simd, const M: usize, const V: usize>(
    s: S,
    a: Matrix,
    b: &[Row<S, V>],
    out: &mut [Row<S, V>],
) {
    let b = flat::<S, V>(b);
    let (strips, rest) = out.as_chunks_mut::<M>();
    let whole = strips.len() * M;
    for (i, out) in strips.iter_mut().enumerate() {
        *out = sums(s, rows::<M>(a, i * M, M), b);
    }
    for (i, out) in rest.chunks_mut(4).enumerate() {
        let sums = sums(s, rows::<4>(a, whole + 4 * i, out.len()), b);
        for (slot, sum) in out.iter_mut().zip(sums) {
            *slot = sum;
        }
    }
}

/// M rows from `first` on; the last of `count` is repeated.
#[inline(always)]
pub(super) fn rows<const M: usize>(a: Matrix<'_>, first: usize, count: usize) -> [&[f32]; M] {
    let mut rows = [&[][..]; M];
    // A loop, because closures of array methods are not inlined.
    for (i, row) in rows.iter_mut().enumerate() {
        let at = (first + i.min(count - 1)) * a.stride;
        *row = &a.values[at..][..a.terms];
    }
    rows
}

/// `out` = shrink out + a^T b.
#[inline(always)]
pub(super) fn add_transposed<S: Simd, const V: usize>(
    s: S,
    a: Matrix,
    b: &[Row<S, V>],
    shrink: Row<S, V>,
    out: &mut [Row<S, V>],
) {
    let whole = match S::REGISTER_COUNT >= 32 {
        true => add_transposed_strips::<S, 8, V>(s, a, 0, b, shrink, out),
        false => 0,
    };
    let rest = &mut out[whole..];
    let fours = add_transposed_strips::<S, 4, V>(s, a, whole, b, shrink, rest);
    add_transposed_strips::<S, 1, V>(s, a, whole + fours, b, shrink, &mut rest[fours..]);
}

/// Processes complete strips of M terms from `first` on and returns the number of terms.
#[inline(always)]
fn add_transposed_strips<S: Simd, const M: usize, const V: usize>(
    s: S,
    a: Matrix,
    first: usize,
    b: &[Row<S, V>],
    shrink: Row<S, V>,
    out: &mut [Row<S, V>],
) -> usize {
    let (strips, _) = out.as_chunks_mut::<M>();
    for (i, out) in strips.iter_mut().enumerate() {
        let sums = transposed_sums::<S, M, V>(s, a, first + i * M, b);
        for (out, sums) in out.iter_mut().zip(sums) {
            for ((out, shrink), sum) in out.iter_mut().zip(&shrink).zip(sums) {
                *out = s.mul_add_e_f32s(*out, *shrink, sum);
            }
        }
    }
    strips.len() * M
}

#[inline(always)]
fn transposed_sums<S: Simd, const M: usize, const V: usize>(
    s: S,
    a: Matrix,
    first: usize,
    b: &[Row<S, V>],
) -> [Row<S, V>; M] {
    let mut sums = [[s.splat_f32s(0.0); V]; M];
    for (a, b) in a.values.chunks(a.stride).zip(b) {
        let a = &a[first..][..M];
        for (a, sums) in a.iter().zip(&mut sums) {
            let a = s.splat_f32s(*a);
            for (b, sum) in b.iter().zip(sums) {
                *sum = s.mul_add_e_f32s(a, *b, *sum);
            }
        }
    }
    sums
}

/// Online softmax over the rows of successive panels (M. Milakov and N. Gimelshein,
/// arXiv 1805.02867).
pub(super) struct Online<S: Simd, const V: usize> {
    peak: Row<S, V>,
    sum: Row<S, V>,
}

impl<S: Simd, const V: usize> Online<S, V> {
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        Self {
            peak: [s.splat_f32s(f32::MIN); V],
            sum: [s.splat_f32s(0.0); V],
        }
    }

    /// Replaces scores x by 2^(x - peak) with the maximum so far, and returns the factor
    /// by which earlier results must be multiplied.
    #[inline(always)]
    pub(super) fn weigh(&mut self, s: S, scores: &mut [Row<S, V>]) -> Row<S, V> {
        let mut shrink = self.peak;
        for row in scores.iter() {
            for (peak, x) in self.peak.iter_mut().zip(row) {
                *peak = s.max_f32s(*peak, *x);
            }
        }
        for ((shrink, peak), sum) in shrink.iter_mut().zip(&self.peak).zip(&mut self.sum) {
            *shrink = exp2(s, s.sub_f32s(*shrink, *peak));
            *sum = s.mul_f32s(*sum, *shrink);
        }
        for row in scores {
            for ((x, peak), sum) in row.iter_mut().zip(&self.peak).zip(&mut self.sum) {
                *x = exp2(s, s.sub_f32s(*x, *peak));
                *sum = s.add_f32s(*sum, *x);
            }
        }
        shrink
    }

    /// Divides a panel by the sums of its columns' weights.
    #[inline(always)]
    pub(super) fn finish(&self, s: S, panel: &mut [Row<S, V>]) {
        let mut inverse = self.sum;
        for sum in &mut inverse {
            *sum = s.div_f32s(s.splat_f32s(1.0), *sum);
        }
        for row in panel {
            for (x, inverse) in row.iter_mut().zip(&inverse) {
                *x = s.mul_f32s(*x, *inverse);
            }
        }
    }
}
