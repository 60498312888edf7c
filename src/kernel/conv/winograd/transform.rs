//! The one-dimensional transforms of F(4, 3), with the interpolation points 0,
//! 3/4, -3/4, 3/2, -3/2 and infinity. For a point p and the square q of the other
//! pair, the row of the input transform is (0, -p q, -q, p, 1, 0), and that of the
//! filter transform is (1, p, p^2) / (2 p^2 (p^2 - q)).

use pulp::Simd;

/// Squares of the interpolation points, and the points.
const A2: f32 = 9.0 / 16.0;
const B2: f32 = 9.0 / 4.0;
const A: f32 = 0.75;
const B: f32 = 1.5;

/// x + factor * y
#[inline(always)]
fn plus<S: Simd>(s: S, x: S::f32s, factor: f32, y: S::f32s) -> S::f32s {
    s.mul_add_e_f32s(y, s.splat_f32s(factor), x)
}

/// factor * x
#[inline(always)]
fn times<S: Simd>(s: S, factor: f32, x: S::f32s) -> S::f32s {
    s.mul_f32s(x, s.splat_f32s(factor))
}

/// The transform of the input, 6 to 6.
#[inline(always)]
pub(in crate::kernel) fn inwards<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
    let even_a = plus(s, d[4], -B2, d[2]);
    let even_b = plus(s, d[4], -A2, d[2]);
    let odd_a = times(s, A, plus(s, d[3], -B2, d[1]));
    let odd_b = times(s, B, plus(s, d[3], -A2, d[1]));
    [
        plus(s, plus(s, d[4], A2 * B2, d[0]), -A2 - B2, d[2]),
        s.add_f32s(even_a, odd_a),
        s.sub_f32s(even_a, odd_a),
        s.add_f32s(even_b, odd_b),
        s.sub_f32s(even_b, odd_b),
        plus(s, plus(s, d[5], A2 * B2, d[1]), -A2 - B2, d[3]),
    ]
}

/// The transform of a filter, 3 to 6.
#[inline(always)]
pub(in crate::kernel) fn filter<S: Simd>(s: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
    const SCALE_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
    const SCALE_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
    let even_a = plus(s, times(s, SCALE_A, g[0]), A2 * SCALE_A, g[2]);
    let even_b = plus(s, times(s, SCALE_B, g[0]), B2 * SCALE_B, g[2]);
    let odd_a = times(s, A * SCALE_A, g[1]);
    let odd_b = times(s, B * SCALE_B, g[1]);
    [
        times(s, 1.0 / (A2 * B2), g[0]),
        s.add_f32s(even_a, odd_a),
        s.sub_f32s(even_a, odd_a),
        s.add_f32s(even_b, odd_b),
        s.sub_f32s(even_b, odd_b),
        g[2],
    ]
}

/// The inverse transform of the products, 6 to 4.
#[inline(always)]
pub(in crate::kernel) fn outwards<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
    let (even_a, odd_a) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
    let (even_b, odd_b) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
    [
        s.add_f32s(m[0], s.add_f32s(even_a, even_b)),
        plus(s, times(s, A, odd_a), B, odd_b),
        plus(s, times(s, A2, even_a), B2, even_b),
        plus(s, plus(s, m[5], A * A2, odd_a), B * B2, odd_b),
    ]
}
