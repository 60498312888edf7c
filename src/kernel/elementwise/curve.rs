//! Activation functions and their derivatives.

use pulp::Simd;

use crate::kernel::simd::exp;

/// A function of one variable.
pub(in crate::kernel) trait Curve: Copy + Send + Sync + 'static {
    /// Value and derivative at each x; the compiler removes an unused one.
    fn at<S: Simd>(self, s: S, x: S::f32s) -> (S::f32s, S::f32s);
}

/// The identity.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Linear;

impl Curve for Linear {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        (x, s.splat_f32s(1.0))
    }
}

/// x sigmoid(factor x): SiLU for a factor of 1 (S. Elfwing et al., arXiv 1702.03118),
/// CLIP's quick GELU for 1.702.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Swish(pub f32);

impl Curve for Swish {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let (one, factor) = (s.splat_f32s(1.0), s.splat_f32s(self.0));
        let e = exp(s, s.mul_f32s(x, s.splat_f32s(-self.0)));
        let gate = s.div_f32s(one, s.add_f32s(one, e));
        let value = s.mul_f32s(x, gate);
        // gate + factor value (1 - gate)
        let slope = s.mul_f32s(s.mul_f32s(factor, value), s.sub_f32s(one, gate));
        (value, s.add_f32s(gate, slope))
    }
}

/// x times the normal cumulative distribution function of x (D. Hendrycks and K. Gimpel,
/// "Gaussian error linear units", arXiv 1606.08415).
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Gelu;

impl Curve for Gelu {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let c = |value| s.splat_f32s(value);
        let far = s.abs_f32s(x);
        let bell = exp(s, s.mul_f32s(s.mul_f32s(x, x), c(-0.5)));
        let tail = tail(s, far, bell);
        let value = s.negate_mul_add_e_f32s(far, tail, s.max_f32s(x, c(0.0)));
        let below = s.less_than_f32s(x, c(0.0));
        let normal = s.select_f32s(below, tail, s.sub_f32s(c(1.0), tail));
        let density = s.mul_f32s(bell, c(FRAC_1_SQRT_TAU));
        (value, s.mul_add_e_f32s(x, density, normal))
    }
}

/// 1 / sqrt(2 pi)
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// The probability that a normal variable exceeds `far` >= 0, erfc(far / sqrt 2) / 2,
/// within 8e-8. `bell` is exp(-far^2 / 2).
///
/// M. Abramowitz and I. Stegun, "Handbook of mathematical functions" (1964),
/// 7.1.26, with the square root and the half folded into the constants.
#[inline(always)]
fn tail<S: Simd>(s: S, far: S::f32s, bell: S::f32s) -> S::f32s {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    let c = |value| s.splat_f32s(value);
    let t = s.div_f32s(c(1.0), s.mul_add_e_f32s(far, c(P), c(1.0)));
    let mut sum = c(1.061_405_4 / 2.0);
    for term in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = s.mul_add_e_f32s(sum, t, c(term / 2.0));
    }
    s.mul_f32s(s.mul_f32s(sum, t), bell)
}
