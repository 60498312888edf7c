//! Whether the autoencoder computes in strips, and the plan for a given size.

use std::ops::Range;

use clap::ValueEnum;

/// Whether the autoencoder computes its activations in strips of rows. Strips
/// include neighbouring rows and use the norms' global statistics, so the results
/// equal those without tiling up to rounding. Peak memory is little more than
/// one block output at full resolution, instead of about five times as much; it
/// takes up to half as much time again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tiling {
    /// If the largest activation takes more than 1 GiB (and the total two to three
    /// times as much): beyond 1024x1024 pixels with Stable Diffusion.
    #[default]
    #[value(help = None)]
    Auto,
    /// At every resolution above that of the middle block.
    #[value(help = None)]
    On,
    /// Never.
    #[value(help = None)]
    Off,
}

/// Bytes of the largest activation up to which `Auto` does not use strips.
const LARGEST: usize = 1 << 30;

/// Bytes of an activation up to which it stays whole when larger ones are in strips.
const WHOLE: usize = 512 << 20;

/// Rows of a strip: enough that the rows at both edges, which are computed
/// twice, cost little, and few enough that strips are small relative to a picture.
const ROWS: usize = 48;

impl Tiling {
    /// Whether any activation is split, see [`plan`](Self::plan).
    pub(crate) fn cuts(self, bytes: [usize; 2]) -> bool {
        self.plan(bytes).cuts_any()
    }

    /// The plan for pictures whose full-resolution block output takes `made` bytes
    /// and largest activation `most` bytes.
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

/// How feature maps are split into strips.
#[derive(Clone, Copy, Debug)]
pub(super) struct StripPlan {
    /// Rows of a strip.
    pub(super) rows: usize,
    /// Bytes up to which an activation stays whole.
    pub(super) whole: usize,
    /// Bytes up to which an upsampled feature map is stored: the memory that is needed
    /// later anyway. A larger one is recomputed whenever its rows are read.
    pub(super) held: usize,
}

impl StripPlan {
    /// Whether any activation may be split.
    pub(super) fn cuts_any(self) -> bool {
        self.whole < usize::MAX
    }

    /// Whether an activation of this size is split.
    pub(super) fn cuts(self, bytes: usize) -> bool {
        bytes > self.whole
    }

    /// The strips of a feature map of this height.
    pub(super) fn strips(self, height: usize) -> impl Iterator<Item = Range<usize>> {
        let strip = move |top: usize| top..top.saturating_add(self.rows).min(height);
        (0..height).step_by(self.rows).map(strip)
    }
}
