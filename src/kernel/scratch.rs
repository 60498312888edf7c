//! Buffers that threads reuse from one kernel to the next.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Maximum number of buffers kept per thread.
const KEPT: usize = 6;

/// Maximum number of values of a buffer that is kept, 16 MiB.
const LARGEST: usize = 1 << 22;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with undefined values.
pub(super) struct Scratch {
    buffer: Vec<f32>,
    length: usize,
}

impl Scratch {
    /// Creates a buffer of `length` values.
    pub(super) fn new(length: usize) -> Self {
        let kept = FREE.with_borrow_mut(|free| {
            let fits = |i: &usize| free[*i].len() >= length;
            let tightest = (0..free.len()).filter(fits).min_by_key(|&i| free[i].len());
            // If none fits, a longer one replaces the longest.
            let longest = (0..free.len()).max_by_key(|&i| free[i].len());
            tightest.or(longest).map(|i| free.swap_remove(i))
        });
        let mut buffer = kept.unwrap_or_default();
        if buffer.len() < length {
            buffer = vec![0.0; length];
        }
        Self { buffer, length }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT && buffer.len() <= LARGEST {
                free.push(buffer);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_at_once_are_apart() {
        for lengths in [[3, 5], [5, 3], [1, 1], [0, 100_000]] {
            let mut buffers = lengths.map(Scratch::new);
            for (i, buffer) in buffers.iter_mut().enumerate() {
                buffer.fill(i as f32);
            }
            for (i, (buffer, length)) in buffers.iter().zip(lengths).enumerate() {
                assert_eq!(buffer.len(), length);
                assert!(buffer.iter().all(|value| *value == i as f32));
            }
        }
    }
}
