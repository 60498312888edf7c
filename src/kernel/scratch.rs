//! Buffers that threads reuse from one kernel to the next.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    thread::LocalKey,
};

use super::bf16::Line;

/// Maximum number of buffers kept per thread.
const KEPT: usize = 6;

/// Maximum size of a buffer that is kept, in bytes.
const LARGEST: usize = 1 << 24;

/// The buffers that a thread keeps of one type.
type Free<T> = LocalKey<RefCell<Vec<Vec<T>>>>;

/// What buffers hold.
pub(super) trait Value: Copy + Default + 'static {
    /// The thread's buffers.
    fn free() -> &'static Free<Self>;
}

/// Implements [`Value`], with buffers of its own for each type.
macro_rules! value {
    ($type:ty) => {
        impl Value for $type {
            fn free() -> &'static Free<Self> {
                thread_local! {
                    static FREE: RefCell<Vec<Vec<$type>>> = const { RefCell::new(Vec::new()) };
                }
                &FREE
            }
        }
    };
}

value!(f32);
value!(Line);

/// A buffer with undefined values.
pub(super) struct Scratch<T: Value = f32> {
    buffer: Vec<T>,
    length: usize,
}

impl<T: Value> Scratch<T> {
    /// Creates a buffer of `length` values.
    pub(super) fn new(length: usize) -> Self {
        let kept = T::free().with_borrow_mut(|free| {
            let fits = |i: &usize| free[*i].len() >= length;
            let tightest = (0..free.len()).filter(fits).min_by_key(|&i| free[i].len());
            // If none fits, a longer one replaces the longest.
            let longest = (0..free.len()).max_by_key(|&i| free[i].len());
            tightest.or(longest).map(|i| free.swap_remove(i))
        });
        let mut buffer = kept.unwrap_or_default();
        if buffer.len() < length {
            buffer = vec![T::default(); length];
        }
        Self { buffer, length }
    }
}

impl<T: Value> Drop for Scratch<T> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        T::free().with_borrow_mut(|free| {
            if free.len() < KEPT && size_of_val(&buffer[..]) <= LARGEST {
                free.push(buffer);
            }
        });
    }
}

impl<T: Value> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer[..self.length]
    }
}

impl<T: Value> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_at_once_are_apart() {
        for lengths in [[3, 5], [5, 3], [1, 1], [0, 100_000]] {
            let mut buffers = lengths.map(Scratch::<f32>::new);
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
