//! Logarithm, sine and cosine in single precision, bit-identical to those of `PyTorch`'s noise.
//!
//! They are the polynomials of the Cephes library (Moshier, 1992: `logf`,
//! `sinf`, `cosf`), which `PyTorch` evaluates with fused multiply-adds. The
//! functions of system libraries differ from them, and from each other, in the
//! last bit.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// P in ln(1 + x) = x - x^2 / 2 + x^3 P(x), highest power first.
const LN: [f32; 9] = [
    0.070_376_836,
    -0.115_146_1,
    0.116_769_984,
    -0.124_201_41,
    0.142_493_23,
    -0.166_680_57,
    0.200_007_14,
    -0.249_999_94,
    0.333_333_3,
];
/// ln 2 as a number of few bits and a small remainder.
const LN_2: [f32; 2] = [0.693_359_4, -0.000_212_194_44];
/// P in sin(x) = x + x^3 P(x^2), highest power first.
const SIN: [f32; 3] = [-0.000_195_152_96, 0.008_332_161, -0.166_666_55];
/// P in cos(x) = 1 - x^2 / 2 + x^4 P(x^2), highest power first.
const COS: [f32; 3] = [2.443_315_7e-5, -0.001_388_731_6, 0.041_666_646];
/// pi / 4 in three parts, so that multiples of it are subtracted almost exactly.
const QUARTER_PI: [f32; 3] = [0.785_156_25, 0.000_241_875_65, 3.774_895e-8];

/// The natural logarithm of a normal positive number.
pub(super) fn ln(x: f32) -> f32 {
    let (mantissa, exponent) = split(x);
    let x = mantissa - 1.0;
    let square = x * x;
    let small = (horner(&LN, x) * x).mul_add(square, exponent * LN_2[1]);
    let sum = x + square.mul_add(-0.5, small);
    exponent.mul_add(LN_2[0], sum)
}

/// Sine and cosine of an angle from 0 to 2 pi.
pub(super) fn sin_cos(angle: f32) -> (f32, f32) {
    // The even multiple of pi / 4 that is nearest to the angle.
    let octant = ((angle * (2.0 * FRAC_2_PI)) as u32 + 1) & !1;
    let near = octant as f32;
    let x = QUARTER_PI
        .iter()
        .fold(angle, |x, part| near.mul_add(-part, x));
    let (sin, cos) = near_zero(x);
    match octant % 8 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Sine and cosine of an angle from -pi / 4 to pi / 4.
fn near_zero(x: f32) -> (f32, f32) {
    let square = x * x;
    let sin = (horner(&SIN, square) * square).mul_add(x, x);
    let quartic = horner(&COS, square) * square;
    let cos = quartic.mul_add(square, -0.5 * square) + 1.0;
    (sin, cos)
}

/// The mantissa from sqrt(1/2) to sqrt(2), and the exponent of two.
fn split(x: f32) -> (f32, f32) {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as f32 - 126.0;
    let half = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    if half < FRAC_1_SQRT_2 {
        (2.0 * half, exponent - 1.0)
    } else {
        (half, exponent)
    }
}

/// The polynomial with these coefficients, highest power first.
fn horner(coefficients: &[f32], x: f32) -> f32 {
    coefficients.iter().fold(0.0, |sum, c| sum.mul_add(x, *c))
}

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use super::*;

    #[test]
    fn the_logarithm_of_a_uniform_number_is_right_to_the_last_digits() {
        for step in 1..=1000_u16 {
            let x = f32::from(step) / 1000.0;
            let exact = f64::from(x).ln();
            let off = (f64::from(ln(x)) - exact).abs();
            assert!(off <= 1.2e-7 * exact.abs(), "{x}: {off}");
        }
    }

    #[test]
    fn sine_and_cosine_are_right_to_the_last_digits_all_around() {
        for step in 0..1000_u16 {
            let angle = TAU * f32::from(step) / 1000.0;
            let (sin, cos) = sin_cos(angle);
            let (exact_sin, exact_cos) = f64::from(angle).sin_cos();
            assert!((f64::from(sin) - exact_sin).abs() < 1.2e-7, "{angle}");
            assert!((f64::from(cos) - exact_cos).abs() < 1.2e-7, "{angle}");
        }
    }
}
