//! Whether pictures are computed in strips, and what that means for a size.

use std::ops::Range;

/// Whether the autoencoder computes its activations in strips of rows. Strips
/// see the rows beside them and share the statistics of the norms, so the values
/// are those of the whole picture but for rounding. There is then little more in
/// memory than one result of a block at the picture's size, where there would be
/// about five times as much; it takes up to half as much time again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// Where the largest activation takes more than 1 GiB, and all together two
    /// to three times as much: beyond 1024x1024 pixels with Stable Diffusion.
    #[default]
    Auto,
    /// Wherever the picture is larger than in the middle of the network.
    On,
    /// Never.
    Off,
}

/// Bytes of the largest activation up to which nothing is cut by itself.
const LARGEST: usize = 1 << 30;

/// Bytes of an activation up to which it is whole beside larger ones.
const WHOLE: usize = 512 << 20;

/// Rows of a strip: many enough that the rows at both edges, which are computed
/// twice, cost little, and few enough that strips are small beside a picture.
const ROWS: usize = 48;

impl Tiling {
    /// The plan for pictures at whose size a block's result takes `made` bytes
    /// and the largest activation `most`.
    pub(super) fn plan(self, [made, most]: [usize; 2]) -> StripPlan {
        let whole = match self {
            Self::Auto if most > LARGEST => WHOLE,
            Self::On => 0,
            Self::Auto | Self::Off => usize::MAX,
        };
        StripPlan {
            rows: ROWS,
            whole,
            held: made,
        }
    }
}

/// How pictures are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct StripPlan {
    /// Rows of a strip.
    pub(super) rows: usize,
    /// Bytes up to which an activation is whole.
    pub(super) whole: usize,
    /// Bytes up to which an enlarged picture is held: as many as have to be held
    /// later anyway. A larger one is computed whenever it is needed.
    pub(super) held: usize,
}

impl StripPlan {
    /// Whether there is anything that it cuts.
    pub(super) fn cuts_any(self) -> bool {
        self.whole < usize::MAX
    }

    /// Whether an activation of so many bytes is cut.
    pub(super) fn cuts(self, bytes: usize) -> bool {
        bytes > self.whole
    }

    /// The strips of so many rows.
    pub(super) fn strips(self, height: usize) -> impl Iterator<Item = Range<usize>> {
        let strip = move |top: usize| top..top.saturating_add(self.rows).min(height);
        (0..height).step_by(self.rows).map(strip)
    }
}
