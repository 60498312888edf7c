//! Softmax over the last axis.

use std::f32::consts::{LN_2, LOG2_E};

use pulp::{Simd, WithSimd};

use super::simd::vectorised;

/// Replaces every row by the softmax of `scale` (above zero) times the row, on this
/// thread.
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
    let mut max = s.splat_f32s(f32::MIN);
    for x in whole {
        max = s.max_f32s(max, *x);
    }
    rest.iter().copied().fold(s.reduce_max_f32s(max), f32::max)
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

/// 2 to the x for x up to 0, within 3 units in the last place; exactly 0 up to -127.
///
/// With n the nearest integer, 2^x = 2^n 2^(x - n); the second factor is the
/// polynomial of least relative error (1e-7) among those with the value and the
/// derivative of 2^x at 0.
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
    use super::*;

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
                let wave = |i: usize| (i as f32 * 0.73).sin() * height;
                let x: Vec<_> = (0..rows * columns).map(wave).collect();
                let mut y = x.clone();
                normalise(y.chunks_mut(columns), 1.0);
                let expected = x.chunks(columns).flat_map(plain);
                for (y, expected) in y.iter().zip(expected) {
                    assert!((f64::from(*y) - expected).abs() < 3e-7, "{y} {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_masked_weighs_nothing() {
        let mut x = [0.0, f32::NEG_INFINITY, 0.0, f32::MIN];
        normalise(x.chunks_mut(4), 1.0);
        assert_eq!(x, [0.5, 0.0, 0.5, 0.0]);
    }
}
