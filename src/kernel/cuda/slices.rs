//! How a group norm is divided among the multiprocessors.

/// The size of a group norm of x (pictures, pixels, channels).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) pictures: usize,
    pub(super) pixels: usize,
    pub(super) channels: usize,
    /// Groups of channels.
    pub(super) groups: usize,
    /// Bytes of a value.
    pub(super) bytes: usize,
}

/// The launches of a group norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Division {
    /// One launch, a block for each group of each picture.
    Whole {
        /// Bytes of shared memory that keep the group, or 0 to read it again.
        cache: usize,
    },
    /// Two launches, the first for the sums over parts of each picture.
    Slices {
        /// Channels of a block.
        span: usize,
        /// Pixels of a block.
        slice: usize,
    },
}

/// Bytes of a group up to which one block is faster than two launches.
const SMALL: usize = 40 << 10;

/// Bytes of a group that shared memory can keep without asking for more.
const CACHE: usize = 40 << 10;

/// Threads of a block.
const THREADS: usize = 256;

/// Channels that a thread reads at once.
const VECTOR: usize = 8;

/// The most channels of a block.
const MOST_CHANNELS: usize = 256;

/// Blocks for each multiprocessor.
const BLOCKS: usize = 2;

impl Size {
    /// Bytes of a group of one picture.
    fn group(self) -> usize {
        self.pixels * (self.channels / self.groups) * self.bytes
    }

    /// The fastest division for a GPU of that many multiprocessors.
    pub(super) fn divide(self, multiprocessors: usize) -> Division {
        match self.span() {
            Some(span) if self.group() > SMALL => {
                let slice = self.slice(span, multiprocessors);
                Division::Slices { span, slice }
            }
            _ => Division::Whole {
                cache: Some(self.group())
                    .filter(|&bytes| bytes <= CACHE)
                    .unwrap_or(0),
            },
        }
    }

    /// The most channels of whole groups that a block can take.
    fn span(self) -> Option<usize> {
        let width = self.channels / self.groups;
        let fits = |span: &usize| span.is_multiple_of(width) && self.channels.is_multiple_of(*span);
        let spans = (1..=MOST_CHANNELS / VECTOR).rev();
        spans.map(|vectors| vectors * VECTOR).find(fits)
    }

    /// Pixels of a block: as many for each thread, and blocks for all multiprocessors.
    fn slice(self, span: usize, multiprocessors: usize) -> usize {
        let at_once = THREADS / (span / VECTOR);
        let across = self.pictures * (self.channels / span);
        let slices = (BLOCKS * multiprocessors).div_ceil(across);
        self.pixels.div_ceil(at_once * slices) * at_once
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100.
    const GPU: usize = 132;

    fn half(pictures: usize, pixels: usize, channels: usize) -> Size {
        Size {
            pictures,
            pixels,
            channels,
            groups: 32,
            bytes: 2,
        }
    }

    #[test]
    fn a_small_group_is_read_once_by_one_block() {
        let whole = |size: Size| match size.divide(GPU) {
            Division::Whole { cache } => Some(cache),
            Division::Slices { .. } => None,
        };
        assert_eq!(whole(half(2, 64, 2560)), Some(64 * 80 * 2));
        assert_eq!(whole(half(1, 256, 1280)), Some(256 * 40 * 2));
        assert_eq!(whole(half(1, 4096, 320)), None);
        // 9 channels have no span, and the group no place in shared memory.
        let odd = Size {
            groups: 3,
            ..half(1, 1 << 20, 9)
        };
        assert_eq!(whole(odd), Some(0));
    }

    #[test]
    fn slices_cover_the_picture_and_occupy_all_multiprocessors() {
        for channels in [256, 320, 512, 640, 960, 1280, 1920] {
            for (pictures, side) in [(1, 64), (2, 64), (1, 128), (2, 128), (1, 512)] {
                let size = half(pictures, side * side, channels);
                let Division::Slices { span, slice } = size.divide(GPU) else {
                    panic!("{size:?} is not small");
                };
                assert!((64..=256).contains(&span), "{size:?}: {span}");
                assert!(span % 8 == 0 && channels % span == 0 && span % (channels / 32) == 0);
                let slices = size.pixels.div_ceil(slice);
                let blocks = slices * (channels / span) * pictures;
                assert!(slice % (256 / (span / 8)) == 0);
                assert!((GPU..=3 * GPU).contains(&blocks), "{size:?}: {blocks}");
            }
        }
    }
}
