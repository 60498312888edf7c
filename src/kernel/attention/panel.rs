//! The two products of attention, on panels.
//!
//! A panel holds a few queries side by side, V vectors of them: its rows are
//! what the queries have in one place each, such as their scores for one key.
//! Scores then come from the keys as they lie in memory, and so do the values
//! that are read; softmax needs no sums across a vector; and no vector is
//! partly filled because a head's width is no multiple of it.

use std::ops::Range;

use pulp::{Simd, bytemuck::cast_slice, bytemuck::cast_slice_mut};

use super::super::{
    product::{Matrix, Rows, sums},
    softmax::exp2,
};

/// A row of a panel.
pub(super) type Row<S, const V: usize> = [<S as Simd>::f32s; V];

/// A panel of zeros.
#[inline(always)]
pub(super) fn zeros<S: Simd, const V: usize>(s: S, rows: usize) -> Vec<Row<S, V>> {
    vec![[s.splat_f32s(0.0); V]; rows]
}

/// The values of a panel, row by row.
#[inline(always)]
pub(super) fn flat<S: Simd, const V: usize>(panel: &[Row<S, V>]) -> &[f32] {
    cast_slice(panel.as_flattened())
}

/// Puts some rows of a matrix, times `factor`, side by side into the first
/// columns of a panel, which has a row for each of their terms.
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

/// Overwrites rows with the first columns.
#[inline(always)]
pub(super) fn unpack<S: Simd, const V: usize>(panel: &[Row<S, V>], rows: &mut [&mut [f32]]) {
    let width = V * S::F32_LANES;
    for (column, row) in rows.iter_mut().enumerate() {
        let values = flat::<S, V>(panel)[column..].iter().step_by(width);
        row.iter_mut().zip(values).for_each(|(slot, x)| *slot = *x);
    }
}

/// `out` = a b, for as many rows of `a` as `out` has.
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

/// M rows from one on, the last of `count` repeated.
#[inline(always)]
pub(super) fn rows<const M: usize>(a: Matrix<'_>, first: usize, count: usize) -> [&[f32]; M] {
    let mut rows = [&[][..]; M];
    // A loop, because the closures of arrays' methods are not inlined.
    for (i, row) in rows.iter_mut().enumerate() {
        let at = (first + i.min(count - 1)) * a.stride;
        *row = &a.values[at..][..a.terms];
    }
    rows
}

/// `out` = shrink out + a^T b: every term of `a`'s rows has a row of `out`.
#[inline(always)]
pub(super) fn gather<S: Simd, const V: usize>(
    s: S,
    a: Matrix,
    b: &[Row<S, V>],
    shrink: Row<S, V>,
    out: &mut [Row<S, V>],
) {
    let whole = match S::REGISTER_COUNT >= 32 {
        true => gather_strips::<S, 8, V>(s, a, 0, b, shrink, out),
        false => 0,
    };
    let rest = &mut out[whole..];
    let fours = gather_strips::<S, 4, V>(s, a, whole, b, shrink, rest);
    gather_strips::<S, 1, V>(s, a, whole + fours, b, shrink, &mut rest[fours..]);
}

/// Does whole strips of M terms, from `first` on, and returns their terms.
#[inline(always)]
fn gather_strips<S: Simd, const M: usize, const V: usize>(
    s: S,
    a: Matrix,
    first: usize,
    b: &[Row<S, V>],
    shrink: Row<S, V>,
    out: &mut [Row<S, V>],
) -> usize {
    let (strips, _) = out.as_chunks_mut::<M>();
    for (i, out) in strips.iter_mut().enumerate() {
        let sums = gathered::<S, M, V>(s, a, first + i * M, b);
        for (out, sums) in out.iter_mut().zip(sums) {
            for ((out, shrink), sum) in out.iter_mut().zip(&shrink).zip(sums) {
                *out = s.mul_add_e_f32s(*out, *shrink, sum);
            }
        }
    }
    strips.len() * M
}

#[inline(always)]
fn gathered<S: Simd, const M: usize, const V: usize>(
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

/// The softmax over the rows of panels that come one after another
/// (M. Milakov and N. Gimelshein, arXiv 1805.02867).
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

    /// Replaces scores x by 2^(x - peak) with the highest peak so far, and
    /// returns what earlier results shrink by because of it.
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
