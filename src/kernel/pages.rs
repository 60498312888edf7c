//! Buffers of large activations. Linux hands out their pages one by one, on first use, which
//! costs as much as a fast product; huge pages cost a tenth.

#![expect(unsafe_code, reason = "a system call that std does not have")]

/// The least size in bytes for which huge pages are asked for.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const LARGE: usize = 1 << 22;

/// A buffer of zeros, on huge pages if it is large and the system has them.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    let buffer = vec![0f32; length];
    prefer_huge_pages(&buffer);
    buffer
}

/// Asks for huge pages; without them nothing but time is lost.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn prefer_huge_pages(buffer: &[f32]) {
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
fn prefer_huge_pages(_: &[f32]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_all_sizes_are_zeros_that_can_be_written() {
        for length in [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 21) + 12345] {
            let mut buffer = zeros(length);
            assert!(buffer.len() == length && buffer.iter().all(|x| *x == 0.0));
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), length as f32);
        }
    }
}
