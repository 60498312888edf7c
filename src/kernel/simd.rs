//! Dispatch to the widest vector instructions of the processor.
//!
//! Kernels are generic over [`pulp::Simd`] and compiled for every instruction set, which
//! is selected at run time: AVX-512, AVX2 with FMA, NEON, or scalar.

use std::{
    f32::consts::{LN_2, LOG2_E},
    sync::LazyLock,
};

use pulp::{Arch, Simd, WithSimd};

use crate::error::Error;

/// The variable that limits the instruction set, for tests and comparisons.
const VARIABLE: &str = "ICD_SIMD";

/// The instruction set in use. Every value that [`check_instruction_set`] refuses counts as
/// no limit.
static ARCH: LazyLock<Arch> = LazyLock::new(|| limited().map(|(arch, _)| arch).unwrap_or_default());

/// How products of bf16 are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bf16Limit {
    /// The fastest.
    None,
    /// `vdpbf16ps`, whether or not it is faster than f32.
    WithoutTiles,
    /// Plain code.
    Emulated,
    /// In f32.
    F32,
}

/// The limit of `ICD_SIMD` for products of bf16.
pub(super) fn bf16_limit() -> Bf16Limit {
    limited().map_or(Bf16Limit::None, |(_, limit)| limit)
}

/// The widest instruction set within the limit of `ICD_SIMD`, and the limit for bf16.
fn limited() -> Result<(Arch, Bf16Limit), Error> {
    let limit = std::env::var_os(VARIABLE).unwrap_or_default();
    match limit.to_str() {
        Some("") => Ok((Arch::new(), Bf16Limit::None)),
        Some("plain") => Ok((Arch::Scalar, Bf16Limit::F32)),
        Some("emulated") => Ok((Arch::new(), Bf16Limit::Emulated)),
        #[cfg(target_arch = "x86_64")]
        Some("avx2") => {
            let arch = pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3);
            Ok((arch, Bf16Limit::F32))
        }
        #[cfg(target_arch = "x86_64")]
        Some("vdpbf16ps") => Ok((Arch::new(), Bf16Limit::WithoutTiles)),
        _ => Err(Error::setting(format!(
            "{VARIABLE}={}: it limits the vector instructions to {ACCEPTED}",
            limit.display()
        ))),
    }
}

#[cfg(target_arch = "x86_64")]
const ACCEPTED: &str = "avx2 or plain, and products of bf16 to vdpbf16ps or emulated";
#[cfg(not(target_arch = "x86_64"))]
const ACCEPTED: &str = "plain, and products of bf16 to emulated";

/// Checks that `ICD_SIMD` is unset, empty or a known limit.
pub fn check_instruction_set() -> Result<(), Error> {
    limited().map(|_| ())
}

/// The name of the instruction set in use, on which results depend.
pub fn instruction_set() -> String {
    format!("{:?}", *ARCH)
}

/// Runs `work` with the widest vectors.
pub(super) fn vectorised<W: WithSimd>(work: W) -> W::Output {
    ARCH.dispatch(work)
}

/// The number of f32 values in a vector.
pub(super) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    vectorised(Lanes)
}

/// Stores `values` to `out`, or adds them; `out` may be shorter than the vectors, at the
/// edge of a matrix.
#[inline(always)]
pub(super) fn put<S: Simd, const V: usize>(
    s: S,
    values: &[S::f32s; V],
    add: bool,
    out: &mut [f32],
) {
    let whole = out.len().min(V * S::F32_LANES) / S::F32_LANES;
    let (vectors, rest) = S::as_mut_simd_f32s(out);
    for (slot, value) in vectors.iter_mut().zip(values) {
        *slot = match add {
            true => s.add_f32s(*slot, *value),
            false => *value,
        };
    }
    // Partial stores are slow calls.
    if let (Some(value), false) = (values.get(whole), rest.is_empty()) {
        let value = match add {
            true => s.add_f32s(s.partial_load_f32s(rest), *value),
            false => *value,
        };
        s.partial_store_f32s(rest, value);
    }
}

/// e to the x, within 2 units in the last place; 0 below -87.3, and at most 2e38.
///
/// Cephes' reduction and polynomial (S. L. Moshier, `expf`): x = n ln 2 + r
/// with ln 2 in two parts, and a polynomial of degree 6 for e^r.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let tiny = s.less_than_f32s(x, s.splat_f32s(-87.3));
    let x = s.min_f32s(s.max_f32s(x, s.splat_f32s(-87.3)), s.splat_f32s(88.3));
    let shifted = s.mul_add_e_f32s(x, s.splat_f32s(LOG2_E), s.splat_f32s(ROUND));
    let n = s.sub_f32s(shifted, s.splat_f32s(ROUND));
    let r = s.mul_add_e_f32s(n, s.splat_f32s(-0.693_359_4), x);
    let r = s.mul_add_e_f32s(n, s.splat_f32s(2.121_944_4e-4), r);
    let mut p = s.splat_f32s(1.987_569_1e-4);
    for term in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_65,
        0.5,
    ] {
        p = s.mul_add_e_f32s(p, r, s.splat_f32s(term));
    }
    let e = s.add_f32s(s.mul_add_e_f32s(s.mul_f32s(r, r), p, r), s.splat_f32s(1.0));
    let e = times_power(s, e, shifted);
    s.select_f32s(tiny, s.splat_f32s(0.0), e)
}

/// 2 to the x for x up to 0, within 3 units in the last place; exactly 0 up to -127.
///
/// The polynomial is that of least relative error (1e-7) among those with the value and the
/// derivative of 2^x at 0.
#[inline(always)]
pub(super) fn exp2<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let polynomial = [
        1.330_058_6e-3,
        9.669_689e-3,
        5.550_558_5e-2,
        0.240_222_83,
        LN_2,
        1.0,
    ];
    power_of_two(s, x, polynomial)
}

/// The same with a relative error of 1e-4, for what becomes bf16; exactly 1 at 0.
#[inline(always)]
pub(super) fn exp2_for_bf16<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    power_of_two(s, x, FOR_BF16)
}

/// The same for x from -126 to 0 only, which needs no comparison.
#[inline(always)]
pub(super) fn bounded_exp2_for_bf16<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    bounded_power_of_two(s, x, FOR_BF16)
}

/// A polynomial for 2^x from -1/2 to 1/2.
const FOR_BF16: [f32; 4] = [5.500_893_3e-2, 0.242_210_97, 0.693_282_9, 1.0];

/// 2 to the x for x up to 0. At -127 the power takes all of the exponent away from 1, which
/// leaves 0.
#[inline(always)]
fn power_of_two<S: Simd, const N: usize>(s: S, x: S::f32s, polynomial: [f32; N]) -> S::f32s {
    bounded_power_of_two(s, s.max_f32s(x, s.splat_f32s(-127.0)), polynomial)
}

/// 2 to the x for x from -127 to 0. With n the nearest integer, it is 2^n 2^(x - n); the second
/// factor is a polynomial, highest coefficient first.
#[inline(always)]
fn bounded_power_of_two<S: Simd, const N: usize>(
    s: S,
    x: S::f32s,
    polynomial: [f32; N],
) -> S::f32s {
    let shifted = s.add_f32s(x, s.splat_f32s(ROUND));
    let r = s.sub_f32s(x, s.sub_f32s(shifted, s.splat_f32s(ROUND)));
    let mut p = s.splat_f32s(polynomial[0]);
    for term in &polynomial[1..] {
        p = s.mul_add_e_f32s(p, r, s.splat_f32s(*term));
    }
    times_power(s, p, shifted)
}

/// 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// x times 2^n, for an integer n in the low bits of `shifted`: moved to the exponent, they
/// multiply by 2^n.
#[inline(always)]
fn times_power<S: Simd>(s: S, x: S::f32s, shifted: S::f32s) -> S::f32s {
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(x), exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
