//! Buffers of large activations. Linux hands out their pages one by one, on first use, which
//! costs as much as a fast product; huge pages cost a tenth.

#![expect(
    unsafe_code,
    reason = "a system call that std does not have, and zeros that several threads write"
)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::parts::PART;

/// The least size in bytes for which huge pages are asked for.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const LARGE: usize = 1 << 22;

/// Sizes in bytes of buffers that several threads clear. On Linux such a buffer was most often in
/// use before (glibc keeps what is freed up to the second size, with musl
/// [`ReusingAllocator`](super::ReusingAllocator) does), and clearing it on one thread takes as
/// long as a fast product. What is larger comes cleared from the system.
const SHARED: std::ops::Range<usize> = match cfg!(target_os = "linux") {
    true => 1 << 20..1 << 25,
    false => 0..0,
};

/// A buffer of zeros, on huge pages if it is large and the system has them.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    match SHARED.contains(&(length * size_of::<f32>())) {
        true => cleared(length),
        false => zeros_of(length),
    }
}

/// A buffer of zeros that all threads write.
fn cleared(length: usize) -> Vec<f32> {
    let mut buffer = room(length);
    let values = &mut buffer.spare_capacity_mut()[..length];
    let parts = values.par_chunks_mut(PART);
    parts.for_each(|part| part.fill(MaybeUninit::new(0.0)));
    // SAFETY: all of them are written.
    unsafe { buffer.set_len(length) };
    buffer
}

/// The same of numbers of any type.
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
    fn buffers_of_all_sizes_are_zeros_that_can_be_written() {
        for length in [
            0,
            1,
            1000,
            1 << 18,
            (1 << 20) - 1,
            (1 << 21) + 12345,
            1 << 23,
        ] {
            drop(vec![f32::NAN; length]); // which the next buffer may be
            let mut buffer = zeros(length);
            assert!(buffer.len() == length && buffer.iter().all(|x| *x == 0.0));
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), length as f32);
        }
    }
}
