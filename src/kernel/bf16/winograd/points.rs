//! The products of a tile that are needed.

use super::POINTS;
use crate::kernel::conv::patches::Patches;

/// Points of transformed pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Points {
    All,
    /// Those that are not zero where the input is upsampled to twice its size.
    Doubled,
}

impl Points {
    /// The points of these patches.
    pub(in crate::kernel) fn of(patches: &Patches) -> Self {
        match patches.is_doubled() {
            true => Self::Doubled,
            false => Self::All,
        }
    }

    /// Their indices, counted row by row of a piece.
    #[inline(always)]
    pub(super) fn indices(self) -> &'static [usize] {
        const ALL: [usize; POINTS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        match self {
            Self::All => &ALL,
            Self::Doubled => &[0, 1, 3, 4, 5, 7, 12, 13, 15],
        }
    }
}
