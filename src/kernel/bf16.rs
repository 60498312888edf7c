//! Products of operands that are rounded to bf16, with sums in f32, as GPUs compute in half
//! precision: by [`Unit`]s of the processor that multiply bf16 faster than f32.
//!
//! ```text
//! linear  conv2d (picture, winograd)  attention  gradients of weights
//!    \________|__________________________/              |
//!          product                         outer    strips of the left side, rounded on the way
//!       pairs   lines                the layout that all units read
//!       weights                      of layers: read, merged, rounded and packed in one pass
//!    unit (tiles, dots)   emulated
//! ```
//!
//! A result is the sum over steps of 32 terms in their order, whatever the number of
//! threads; that of the emulation is that of the tiles, bit by bit.

mod emulated;
mod feed_forward;
mod finish;
mod lines;
mod outer;
mod pairs;
mod picture;
mod product;
mod right_side;
#[cfg(test)]
pub(crate) mod tests;
mod unit;
mod weights;
pub(super) mod winograd;

use std::{sync::LazyLock, time::Instant};

use candle_core::DType;

use super::simd::{Bf16Limit, bf16_limit};
pub use unit::Unit;

pub(super) use feed_forward::FeedForward;
pub(super) use lines::{
    COLUMNS, Line, Operands, ROWS, Start, Steps, Sums, TERMS, pair, round_row, rounded, short_line,
};
pub(super) use outer::{OuterSums, Transposed};
pub(super) use pairs::{Pairs, Terms};
pub(super) use picture::convolve;
pub(super) use product::{Rows, compute_rows, linear_geglu, product};
pub(super) use right_side::RightSide;
pub(super) use unit::Session;
pub use weights::MergedWeight;
pub(super) use weights::WeightShape;

/// How the products of layers are computed on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// In f32, of weights of any type.
    F32,
    /// Of operands rounded to bf16, with sums in f32.
    Bf16(Unit),
}

impl Arithmetic {
    /// The arithmetic for weights that are stored in `dtype`: bf16 where the processor
    /// multiplies it faster than f32 or `ICD_SIMD` asks for its emulation, else f32.
    pub fn of(dtype: DType) -> Self {
        match (dtype, *UNIT) {
            (DType::BF16, Some(unit)) => Self::Bf16(unit),
            _ => Self::F32,
        }
    }

    /// Whether this processor multiplies bf16 faster than f32.
    pub fn prefers_bf16() -> bool {
        matches!(*UNIT, Some(Unit::Tiles(_) | Unit::Dots(_)))
    }

    /// Its name in messages, settings and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16(Unit::Tiles(_)) => "bf16 (AMX tiles)",
            Self::Bf16(Unit::Dots(_)) => "bf16 (vdpbf16ps)",
            Self::Bf16(Unit::Emulated) => "bf16 (emulated)",
        }
    }
}

/// Floating point operations per second of a unit's loop on all threads, for operands that
/// stay in the L1 cache: no product can be faster.
pub fn peak_flops(unit: Unit) -> f64 {
    const STEPS: usize = 8;
    const LOOPS: usize = 4000;
    let lines = vec![Line([0x3F80_3F80; 16]); STEPS * 2 * ROWS];
    let steps = Steps::at((0..STEPS).map(|step| step * 2 * ROWS));
    let once = |_| {
        let start = Instant::now();
        rayon::broadcast(|_| {
            let (session, mut sums) = (Session::new(unit), Sums::default());
            let operands = Operands {
                a: &lines,
                rows: (0, Some(ROWS)),
                count: 2 * ROWS,
                steps: &steps,
                b: &lines,
            };
            (0..LOOPS).for_each(|_| session.multiply(operands, Start::Zero, &mut sums));
            std::hint::black_box(&sums);
        });
        start.elapsed().as_secs_f64()
    };
    let best = (0..TRIALS).map(once).fold(f64::INFINITY, f64::min);
    let products = rayon::current_num_threads() * LOOPS * STEPS * 2 * ROWS * COLUMNS * TERMS;
    2.0 * products as f64 / best
}

/// The unit in use, found once in a process.
static UNIT: LazyLock<Option<Unit>> = LazyLock::new(|| match bf16_limit() {
    Bf16Limit::None => Unit::tiles().or_else(faster_dots),
    Bf16Limit::WithoutTiles => Unit::dots(),
    Bf16Limit::Emulated => Some(Unit::Emulated),
    Bf16Limit::F32 => None,
});

/// `vdpbf16ps`, where it is faster than f32: half as fast on Sapphire Rapids, documented at
/// twice the speed on Zen 4 and 5.
fn faster_dots() -> Option<Unit> {
    let unit = Unit::dots()?;
    let best = |work: &mut dyn FnMut()| {
        let once = |_| {
            let start = Instant::now();
            work();
            start.elapsed()
        };
        (0..TRIALS).map(once).min()
    };
    let (mut rounded, mut exact) = product::trials(unit);
    (best(&mut rounded) < best(&mut exact)).then_some(unit)
}

/// Products of each kind that are timed, of a fifth of a millisecond each.
const TRIALS: usize = 8;
