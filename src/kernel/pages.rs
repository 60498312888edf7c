//! Large buffers. Linux hands out their pages one by one, on first use, which
//! costs as much as a fast product; huge pages cost a tenth.

#![expect(
    unsafe_code,
    reason = "a system call that std does not have, and buffers that are not cleared"
)]

use super::bf16::Line;

/// The least size in bytes for which huge pages are asked for.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const LARGE: usize = 1 << 22;

/// Types of which any bits are a value.
///
/// # Safety
///
/// Every pattern of bits is a valid value, and there is no padding.
pub(super) unsafe trait Plain: Copy + Default {
    /// What is not a number.
    const UNSET: Self;
}

// SAFETY: every pattern of bits is a number or NaN.
unsafe impl Plain for f32 {
    const UNSET: Self = Self::NAN;
}

// SAFETY: a line is 16 integers of 4 bytes, which fill its 64 bytes.
unsafe impl Plain for Line {
    const UNSET: Self = Self([u32::MAX; _]);
}

/// A buffer for values that a kernel computes, on huge pages if it is large and the system has
/// them. All of them must be overwritten before one is read: they are what the memory held, and
/// NaN in tests. Clearing a buffer takes as long as a fast product.
pub(super) fn unset<T: Plain>(length: usize) -> Vec<T> {
    match cfg!(test) {
        true => vec![T::UNSET; length],
        false => as_found(length),
    }
}

/// A buffer of what the memory held.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn as_found<T: Plain>(length: usize) -> Vec<T> {
    let mut buffer = room::<T>(length);
    let start = buffer.as_mut_ptr();
    // SAFETY: there is room for so many values. The assembly is given their address and may have
    // written them, for all that the compiler knows, and any bits are a value.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags));
        buffer.set_len(length);
    }
    buffer
}

/// Elsewhere it is cleared.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn as_found<T: Plain>(length: usize) -> Vec<T> {
    zeros_of(length)
}

/// A buffer of zeros, on huge pages as above.
pub(super) fn zeros_of<T: Copy + Default>(length: usize) -> Vec<T> {
    let buffer = vec![T::default(); length];
    prefer_huge_pages(&buffer);
    buffer
}

/// An empty vector with room for some values, on huge pages as above.
pub(super) fn room<T>(length: usize) -> Vec<T> {
    let mut vector = Vec::with_capacity(length);
    prefer_huge_pages(vector.spare_capacity_mut());
    vector
}

/// Asks for huge pages; without them nothing but time is lost.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn prefer_huge_pages<T>(buffer: &[T]) {
    const MADVISE: usize = 28;
    const HUGE_PAGE: usize = 14;
    const PAGE: usize = 1 << 12;
    let range = buffer.as_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(PAGE), range.end.addr());
    let length = end.saturating_sub(start) / PAGE * PAGE;
    if length >= LARGE {
        // SAFETY: the advice changes no contents, and a refusal is no loss.
        unsafe {
            std::arch::asm!("syscall", inout("rax") MADVISE => _, in("rdi") start, in("rsi") length,
                in("rdx") HUGE_PAGE, out("rcx") _, out("r11") _, options(nostack));
        }
    }
}

/// Other systems choose by themselves.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn prefer_huge_pages<T>(_: &[T]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_all_sizes_can_be_written() {
        for length in [0, 1, 1000, 1 << 18, (1 << 21) + 12345, 1 << 23] {
            drop(vec![f32::NAN; length]); // which the next buffer may be
            let zeros = zeros_of::<f32>(length);
            assert!(zeros.len() == length && zeros.iter().all(|x| *x == 0.0));
            let mut buffer = as_found::<f32>(length);
            buffer.fill(1.0);
            let sum: f64 = buffer.iter().copied().map(f64::from).sum();
            assert_eq!(sum, length as f64);
        }
    }
}
