//! Formulas applied to every value, and their sums along rows and columns.

use pulp::{Simd, WithSimd};

use super::simd::vectorised;

/// A formula with N inputs and M outputs, for a vector of each.
///
/// A trait rather than a closure, because only methods can be told to be
/// inlined, without which vectors leave their registers.
pub(super) trait Formula<const N: usize, const M: usize>: Copy + Sync {
    fn at<S: Simd>(self, s: S, x: [S::f32s; N]) -> [S::f32s; M];
}

/// Rows that begin so many values apart: 0 for one row that is used again and again.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a>(pub &'a [f32], pub usize);

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, row: usize) -> &'a [f32] {
        &self.0[row * self.1..]
    }
}

/// Overwrites `out` with a formula's outputs. Each row of it holds M times
/// `width` values, one output after another; the last one may be shorter.
pub(super) fn map<const N: usize, const M: usize>(
    formula: impl Formula<N, M>,
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

impl<F: Formula<N, M>, const N: usize, const M: usize> WithSimd for Map<'_, F, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows = self.out.chunks_mut(self.width * M).enumerate();
        for (row, out) in rows {
            let mut outs = out.chunks_mut(self.width);
            let outs = std::array::from_fn(|_| outs.next().unwrap_or_default());
            let inputs = self.inputs.map(|input| input.row(row));
            fill(s, self.formula, inputs, outs);
        }
    }
}

/// Overwrites `outs`, which are equally long, with a formula of the inputs.
#[inline(always)]
pub(super) fn fill<S: Simd, const N: usize, const M: usize>(
    s: S,
    formula: impl Formula<N, M>,
    inputs: [&[f32]; N],
    outs: [&mut [f32]; M],
) {
    let length = outs[0].len();
    let whole = length / S::F32_LANES;
    let x: [&[S::f32s]; N] =
        std::array::from_fn(|k| &S::as_simd_f32s(&inputs[k][..length]).0[..whole]);
    let mut outs = outs.map(|y| S::as_mut_simd_f32s(y));
    for i in 0..whole {
        let values = formula.at(s, std::array::from_fn(|k| x[k][i]));
        for ((y, _), value) in outs.iter_mut().zip(values) {
            y[i] = value;
        }
    }
    if length % S::F32_LANES > 0 {
        let rest = whole * S::F32_LANES..length;
        let x = std::array::from_fn(|k| s.partial_load_f32s(&inputs[k][rest.clone()]));
        for ((_, y), value) in outs.iter_mut().zip(formula.at(s, x)) {
            s.partial_store_f32s(y, value);
        }
    }
}

/// The sums of a formula over inputs that are equally long.
#[inline(always)]
pub(super) fn sum<S: Simd, const N: usize, const M: usize>(
    s: S,
    formula: impl Formula<N, M>,
    inputs: [&[f32]; N],
) -> [f32; M] {
    /// Sums that are under way at once.
    const LANES: usize = 4;
    let length = inputs[0].len();
    let inputs = inputs.map(|x| S::as_simd_f32s(&x[..length]));
    let whole = length / S::F32_LANES;
    let mut sums = [[s.splat_f32s(0.0); M]; LANES];
    for i in (0..whole / LANES * LANES).step_by(LANES) {
        for (lane, sums) in sums.iter_mut().enumerate() {
            let values = formula.at(s, inputs.map(|(x, _)| x[i + lane]));
            add(s, sums, values);
        }
    }
    let [mut total, others @ ..] = sums;
    others.into_iter().for_each(|sums| add(s, &mut total, sums));
    for i in whole / LANES * LANES..whole {
        add(s, &mut total, formula.at(s, inputs.map(|(x, _)| x[i])));
    }
    let rest = length % S::F32_LANES;
    if rest > 0 {
        let values = formula.at(s, inputs.map(|(_, x)| s.partial_load_f32s(x)));
        add(s, &mut total, values.map(|value| first(s, value, rest)));
    }
    total.map(|sum| s.reduce_sum_f32s(sum))
}

/// A vector of which only the first values are kept, and zeros.
#[inline(always)]
fn first<S: Simd>(s: S, x: S::f32s, kept: usize) -> S::f32s {
    const MOST_LANES: usize = 64;
    let mut values = [0f32; MOST_LANES];
    s.partial_store_f32s(&mut values[..S::F32_LANES], x);
    s.partial_load_f32s(&values[..kept])
}

/// Overwrites `outs`, which are equally long, with the sums of a formula down
/// the columns of a few rows.
#[inline(always)]
pub(super) fn sum_columns<S: Simd, const N: usize, const M: usize>(
    s: S,
    formula: impl Formula<N, M>,
    inputs: [Rows; N],
    rows: usize,
    outs: [&mut [f32]; M],
) {
    let width = outs[0].len();
    let mut outs = outs.map(|y| y.chunks_mut(S::F32_LANES));
    for start in (0..width).step_by(S::F32_LANES) {
        let columns = start..width.min(start + S::F32_LANES);
        let mut sums = [s.splat_f32s(0.0); M];
        for row in 0..rows {
            let x = inputs.map(|input| load(s, &input.row(row)[columns.clone()]));
            add(s, &mut sums, formula.at(s, x));
        }
        for (out, sum) in outs.iter_mut().zip(sums) {
            let out = out.next().unwrap_or_default();
            s.partial_store_f32s(out, sum);
        }
    }
}

/// A vector of values, with zeros where there are too few.
#[inline(always)]
fn load<S: Simd>(s: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values).0.first() {
        Some(whole) => *whole,
        None => s.partial_load_f32s(values),
    }
}

#[inline(always)]
fn add<S: Simd, const M: usize>(s: S, sums: &mut [S::f32s; M], more: [S::f32s; M]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = s.add_f32s(*sum, more);
    }
}
