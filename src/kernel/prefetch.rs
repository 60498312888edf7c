//! A hint that brings values into the cache ahead of their use.

#![expect(unsafe_code, reason = "an instruction")]

/// Begins to bring the lines of some values into the L2 cache. To be given a product ahead:
/// processors fetch long runs by themselves, but not a few columns of each row of an output.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch<const N: usize>(values: &[f32; N]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

    const LINE: usize = 64 / size_of::<f32>();
    for i in (0..N).step_by(LINE).chain(N.checked_sub(1)) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>((&raw const values[i]).cast()) };
    }
}

/// Rust has no stable hint for other processors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn prefetch<const N: usize>(_: &[f32; N]) {}
