//! Softmax over the last axis.

use std::f32::consts::LOG2_E;

use pulp::{Simd, WithSimd};

use super::simd::{exp2, vectorised};

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
