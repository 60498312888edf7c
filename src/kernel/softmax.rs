//! Softmax over the last axis.

use std::f32::consts::{LN_2, LOG2_E};

use candle_core::{D, Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{
    op::{self, Gradients},
    simd::vectorised,
};

/// Values that one task works on at least.
const VALUES: usize = 1 << 14;

/// Softmax over the last axis of x (.., c), f32, contiguous and on a CPU.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let columns = x.dim(D::Minus1)?;
    if columns == 0 {
        bail!("softmax: there is nothing to share among");
    }
    let mut out = op::with([x], |[x]| Ok(x.to_vec()))?;
    out.par_chunks_mut(VALUES.div_ceil(columns) * columns)
        .for_each(|rows| normalise(rows.chunks_mut(columns), 1.0));
    op::tracked("softmax", [x], out, x.shape(), backward)
}

/// A softmax y changes by y (dx - sum(y dx)); the way back is the same.
fn backward([x]: [&Tensor; 1], gradient: &Tensor) -> Result<Gradients<1>> {
    let y = softmax(&x.detach())?;
    let columns = x.dim(D::Minus1)?;
    op::with([&y, gradient], |[y, gradient]| {
        let mut out = gradient.to_vec();
        out.par_chunks_mut(columns)
            .zip(y.par_chunks(columns))
            .with_min_len(VALUES.div_ceil(columns))
            .for_each(|(out, y)| {
                let mean: f32 = out.iter().zip(y).map(|(dy, y)| dy * y).sum();
                out.iter_mut()
                    .zip(y)
                    .for_each(|(dy, y)| *dy = y * (*dy - mean));
            });
        Ok([Some(op::tensor(out, x.shape())?)])
    })
}

/// Replaces every row by the softmax of `scale` (above zero) times itself, on
/// this thread.
pub(super) fn normalise<'a>(rows: impl Iterator<Item = &'a mut [f32]>, scale: f32) {
    vectorised(Normalise { rows, scale });
}

struct Normalise<I> {
    rows: I,
    scale: f32,
}

impl<'a, I: Iterator<Item = &'a mut [f32]>> WithSimd for Normalise<I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let scale = self.scale * LOG2_E;
        for row in self.rows {
            let peak = peak(s, row);
            let sum = exponentiate(s, row, peak, scale);
            let inverse = 1.0 / sum;
            for x in row {
                *x *= inverse;
            }
        }
    }
}

#[inline(always)]
fn peak<S: Simd>(s: S, row: &[f32]) -> f32 {
    let (whole, rest) = S::as_simd_f32s(row);
    let mut most = s.splat_f32s(f32::MIN);
    for x in whole {
        most = s.max_f32s(most, *x);
    }
    rest.iter().copied().fold(s.reduce_max_f32s(most), f32::max)
}

/// Replaces x by 2^((x - peak) scale) and returns the sum.
#[inline(always)]
fn exponentiate<S: Simd>(s: S, row: &mut [f32], peak: f32, scale: f32) -> f32 {
    let (peak, scale) = (s.splat_f32s(peak), s.splat_f32s(scale));
    let (whole, rest) = S::as_mut_simd_f32s(row);
    let mut sum = s.splat_f32s(0.0);
    for x in whole {
        *x = exp2(s, s.mul_f32s(s.sub_f32s(*x, peak), scale));
        sum = s.add_f32s(sum, *x);
    }
    let last = s.sub_f32s(s.partial_load_f32s(rest), peak);
    s.partial_store_f32s(rest, exp2(s, s.mul_f32s(last, scale)));
    s.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

/// 2 to the x for x up to 0, within 3 units in the last place; exactly 0 from
/// -127 down.
///
/// With n the nearest integer, 2^x = 2^n 2^(x - n); the second factor is a
/// polynomial of least relative error (1e-7) among those with the value and the
/// slope of 2^x at 0.
#[inline(always)]
pub(super) fn exp2<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = s.max_f32s(x, s.splat_f32s(-127.0));
    let shifted = s.add_f32s(x, s.splat_f32s(ROUND));
    let r = s.sub_f32s(x, s.sub_f32s(shifted, s.splat_f32s(ROUND)));
    let mut p = s.splat_f32s(1.330_058_6e-3);
    for term in [9.669_689e-3, 5.550_558_5e-2, 0.240_222_83, LN_2, 1.0] {
        p = s.mul_add_e_f32s(p, r, s.splat_f32s(term));
    }
    // The low bits of `shifted` are n; moved to the exponent, they multiply by
    // 2^n. At -127 this takes all of the exponent away from 1, which leaves 0.
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(p), exponent))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn waves(rows: usize, columns: usize, height: f32) -> Tensor {
        let wave = |i: usize| (i as f32 * 0.73).sin() * height;
        let values: Vec<_> = (0..rows * columns).map(wave).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// The definition, in f64.
    fn plain(row: &[f32]) -> Vec<f64> {
        let peak = row.iter().copied().fold(f32::MIN, f32::max);
        let powers = row.iter().map(|x| f64::from(x - peak).exp());
        let powers: Vec<_> = powers.collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    #[test]
    fn powers_of_two_are_right_and_end_at_zero() {
        struct Power(f32);
        impl WithSimd for Power {
            type Output = f32;

            #[inline(always)]
            fn with_simd<S: Simd>(self, s: S) -> f32 {
                s.reduce_max_f32s(exp2(s, s.splat_f32s(self.0)))
            }
        }
        for i in 0..126_000 {
            let x = i as f32 * -1e-3;
            let expected = f64::from(x).exp2();
            let gap = (f64::from(vectorised(Power(x))) - expected).abs() / expected;
            assert!(gap < 2e-7, "{x}: {gap}");
        }
        for x in [-127.0, -128.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(vectorised(Power(x)), 0.0);
        }
    }

    #[test]
    fn it_equals_its_definition_for_many_widths() {
        for (rows, columns) in [
            (1, 1),
            (3, 2),
            (5, 15),
            (4, 16),
            (7, 77),
            (300, 130),
            (2, 1000),
        ] {
            for height in [1.0, 100.0, 3e38] {
                let x = waves(rows, columns, height);
                let y = softmax(&x).unwrap().to_vec2::<f32>().unwrap();
                for (y, x) in y.iter().zip(x.to_vec2::<f32>().unwrap()) {
                    for (y, expected) in y.iter().zip(plain(&x)) {
                        assert!((f64::from(*y) - expected).abs() < 3e-7, "{y} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_masked_weighs_nothing() {
        let x = Tensor::new(&[[0f32, f32::NEG_INFINITY, 0.0, f32::MIN]], &Device::Cpu).unwrap();
        let y = softmax(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, [[0.5, 0.0, 0.5, 0.0]]);
    }

    #[test]
    fn its_gradient_is_that_of_the_composed_formula() {
        let (x, slope) = (
            Var::from_tensor(&waves(9, 77, 3.0)).unwrap(),
            waves(77, 9, 1.0),
        );
        let slope = slope.reshape((9, 77)).unwrap();
        let gradient = |y: Tensor| {
            let loss = (y * &slope).unwrap().sum_all().unwrap();
            loss.backward().unwrap().get(&x).unwrap().clone()
        };
        let powers = x.exp().unwrap();
        let sums = powers.sum_keepdim(D::Minus1).unwrap();
        let expected = gradient(powers.broadcast_div(&sums).unwrap());
        let gap = (gradient(softmax(&x).unwrap()) - expected)
            .unwrap()
            .abs()
            .unwrap();
        assert!(gap.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }
}
