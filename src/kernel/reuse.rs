//! An allocator that keeps what is freed for its next use. musl is slow where several threads
//! allocate; it maps each block of more than 128 KiB anew and returns it to Linux when it is freed,
//! and clearing its pages again takes as long as a fast product. glibc keeps blocks by itself.

// mimalloc and jemalloc are C, of which `ring` is to remain the only part. `dlmalloc` is Rust, but
// returns what is free beyond 2 MiB to the system, too; it was not measured here.

#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The least size of a block that is kept, in bytes.
const LEAST: usize = 1 << 12;

/// Blocks that are kept at most, and their bytes.
const BLOCKS: usize = 128;
const BYTES: usize = 1 << 28;

/// The system's allocator, with up to 256 MiB of freed blocks of 4 KiB or more kept for their next
/// use. Meant as the `#[global_allocator]` of a program that is linked with musl.
#[derive(Debug)]
pub struct ReusingAllocator(Mutex<Kept>);

/// Freed blocks, the oldest first.
#[derive(Debug)]
struct Kept {
    blocks: [Block; BLOCKS],
    count: usize,
    bytes: usize,
}

/// A freed block, and the layout with which the system allocated it.
#[derive(Clone, Copy, Debug)]
struct Block {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: nobody else has a freed block.
unsafe impl Send for Block {}

impl Default for ReusingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl ReusingAllocator {
    /// An allocator that keeps nothing yet.
    pub const fn new() -> Self {
        let none = Block {
            start: ptr::null_mut(),
            layout: Layout::new::<()>(),
        };
        Self(Mutex::new(Kept {
            blocks: [none; BLOCKS],
            count: 0,
            bytes: 0,
        }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of the system; what is kept is given up before that fails.
    fn fresh(&self, layout: Layout, allocate: unsafe fn(&System, Layout) -> *mut u8) -> *mut u8 {
        // SAFETY: the layout is larger than nothing, and the function is one of the system's.
        let start = unsafe { allocate(&System, layout) };
        if !start.is_null() {
            return start;
        }
        let mut kept = self.kept();
        while kept.count > 0 {
            kept.give_up();
        }
        // SAFETY: as above.
        unsafe { allocate(&System, layout) }
    }
}

impl Kept {
    /// Takes the newest block of this layout.
    fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        let blocks = &self.blocks[..self.count];
        let at = blocks.iter().rposition(|block| block.layout == layout)?;
        let start = blocks[at].start;
        self.remove(at);
        Some(start)
    }

    /// Keeps a block, and gives up older ones for it; false if it is too large.
    fn keep(&mut self, block: Block) -> bool {
        if block.layout.size() > BYTES {
            return false;
        }
        while self.count == BLOCKS || self.bytes + block.layout.size() > BYTES {
            self.give_up();
        }
        self.blocks[self.count] = block;
        self.count += 1;
        self.bytes += block.layout.size();
        true
    }

    /// Returns the oldest block to the system.
    fn give_up(&mut self) {
        let Block { start, layout } = self.blocks[0];
        self.remove(0);
        // SAFETY: the system allocated it with this layout.
        unsafe { System.dealloc(start, layout) };
    }

    fn remove(&mut self, at: usize) {
        self.bytes -= self.blocks[at].layout.size();
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }
}

/// The layout with which the system allocates a block that may be kept: sizes in steps of an
/// eighth at most, so that blocks of about the same size replace each other. `None` for small
/// blocks, and for sizes beyond what there can be.
fn keepable(layout: Layout) -> Option<Layout> {
    if layout.size() < LEAST {
        return None;
    }
    let step = layout.size().checked_next_power_of_two()? >> 4;
    let size = layout.size().checked_next_multiple_of(step)?;
    Layout::from_size_align(size, layout.align()).ok()
}

// SAFETY: a block is in the hands of its owner, or kept; it comes from the system and goes back
// to it with the same layout, which depends on that of its owner alone.
unsafe impl GlobalAlloc for ReusingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(large) = keepable(layout) else {
            // SAFETY: as promised to this function.
            return unsafe { System.alloc(layout) };
        };
        let kept = self.kept().take(large);
        kept.unwrap_or_else(|| self.fresh(large, System::alloc))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(large) = keepable(layout) else {
            // SAFETY: as promised to this function.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let kept = self.kept().take(large);
        match kept {
            Some(start) => {
                // SAFETY: the block is at least so large.
                unsafe { start.write_bytes(0, layout.size()) };
                start
            }
            None => self.fresh(large, System::alloc_zeroed),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let large = keepable(layout);
        let kept = large.is_some_and(|layout| self.kept().keep(Block { start, layout }));
        if !kept {
            // SAFETY: the system allocated it so.
            unsafe { System.dealloc(start, large.unwrap_or(layout)) };
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        match (keepable(layout), keepable(wanted)) {
            // SAFETY: as promised to this function.
            (None, None) => unsafe { System.realloc(start, layout, size) },
            (own, other) if own == other => start,
            _ => {
                // SAFETY: the size is not 0; both blocks have as many bytes as are copied, and
                // the old one is not used again.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        start.copy_to_nonoverlapping(moved, layout.size().min(size));
                        self.dealloc(start, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    /// A block of an allocator, filled with a byte.
    fn filled(allocator: &ReusingAllocator, size: usize, byte: u8) -> *mut u8 {
        // SAFETY: the size is not 0.
        let start = unsafe { allocator.alloc(layout(size)) };
        assert!(!start.is_null() && start.addr().is_multiple_of(64));
        // SAFETY: the block is so large.
        unsafe { start.write_bytes(byte, size) };
        start
    }

    fn free(allocator: &ReusingAllocator, start: *mut u8, size: usize) {
        // SAFETY: it is a block of this allocator and size.
        unsafe { allocator.dealloc(start, layout(size)) };
    }

    fn holds(start: *mut u8, size: usize, byte: u8) -> bool {
        // SAFETY: the block is so large, and all of it is written.
        unsafe { std::slice::from_raw_parts(start, size) }
            .iter()
            .all(|x| *x == byte)
    }

    #[test]
    fn a_large_block_is_used_again_and_a_small_one_is_the_systems() {
        let allocator = ReusingAllocator::new();
        for (size, next) in [(LEAST, LEAST), (5_000_000, 4_900_000)] {
            let first = filled(&allocator, size, 7);
            free(&allocator, first, size);
            // SAFETY: the size is not 0.
            let second = unsafe { allocator.alloc_zeroed(layout(next)) };
            assert_eq!(first, second);
            assert!(holds(second, next, 0));
            free(&allocator, second, next);
        }
        let count = allocator.kept().count;
        let small = filled(&allocator, LEAST - 1, 1);
        free(&allocator, small, LEAST - 1);
        assert_eq!(allocator.kept().count, count);
    }

    #[test]
    fn no_more_is_kept_than_the_limits_and_the_oldest_goes_first() {
        let allocator = ReusingAllocator::new();
        let sizes = (0..2 * BLOCKS).map(|i| LEAST + i * (LEAST >> 3));
        for size in sizes.chain([BYTES / 2, BYTES / 2, BYTES, BYTES + 1]) {
            // Not written: untouched pages cost nothing.
            // SAFETY: the size is not 0.
            let start = unsafe { allocator.alloc(layout(size)) };
            free(&allocator, start, size);
            let kept = allocator.kept();
            let bytes: usize = kept.blocks[..kept.count]
                .iter()
                .map(|b| b.layout.size())
                .sum();
            assert!(kept.count <= BLOCKS && kept.bytes <= BYTES && bytes == kept.bytes);
        }
        let newest = allocator.kept().blocks[0].layout.size();
        assert_eq!((allocator.kept().count, newest), (1, BYTES));
    }

    #[test]
    fn what_grows_or_shrinks_keeps_its_values() {
        let allocator = ReusingAllocator::new();
        let mut size = 1000;
        let mut start = filled(&allocator, size, 9);
        for next in [2000, LEAST, LEAST + 1, 3 * LEAST, LEAST, 500] {
            // SAFETY: it is a block of this allocator and size, and the next size is not 0.
            start = unsafe { allocator.realloc(start, layout(size), next) };
            assert!(holds(start, size.min(next), 9), "{size} to {next}");
            // SAFETY: the block is so large.
            unsafe { start.write_bytes(9, next) };
            size = next;
        }
        free(&allocator, start, size);
    }

    #[test]
    fn threads_never_share_a_block() {
        let allocator = ReusingAllocator::new();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for i in 0..200usize {
                        let size = LEAST + i % 5 * LEAST / 3;
                        let start = filled(allocator, size, thread);
                        assert!(holds(start, size, thread));
                        free(allocator, start, size);
                    }
                });
            }
        });
    }

    #[test]
    fn sizes_beyond_memory_are_refused() {
        let allocator = ReusingAllocator::new();
        let huge = Layout::from_size_align(isize::MAX as usize - 63, 64).unwrap();
        // SAFETY: the size is not 0.
        assert!(unsafe { allocator.alloc(huge) }.is_null());
    }
}
