//! The processor's instructions for bf16 products: Intel's tiles (AMX) and `vdpbf16ps`.
//!
//! Only the files below this one have such instructions.

#![expect(unsafe_code, reason = "instructions that the compiler does not check")]

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(target_arch = "x86_64")]
mod dots;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::{cell::Cell, marker::PhantomData};

#[cfg(not(target_arch = "x86_64"))]
use absent::{dots, tiles};

use super::{
    emulated,
    lines::{Operands, Start, Sums},
};

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tiles: 16 x 16 sums of 32 terms per instruction.
    Tiles(Permitted),
    /// `vdpbf16ps`: 16 sums of 2 terms per instruction.
    Dots(Permitted),
    /// Plain code with the results of tiles.
    Emulated,
}

/// Proof that the processor and the system permit the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permitted(());

impl Unit {
    /// The tiles, if the processor has them and the system lets this process use them.
    /// Threads that exist already are included only if this thread started them later.
    pub(super) fn tiles() -> Option<Self> {
        tiles::available().then_some(Self::Tiles(Permitted(())))
    }

    /// `vdpbf16ps`, if the processor has it.
    pub(super) fn dots() -> Option<Self> {
        dots::available().then_some(Self::Dots(Permitted(())))
    }
}

thread_local! {
    /// Sessions with configured tiles on this thread.
    static SESSIONS: Cell<usize> = const { Cell::new(0) };
}

/// A unit that is ready on this thread.
pub(in crate::kernel) struct Session {
    unit: Unit,
    here: PhantomData<*const ()>, // not Send: tiles are configured per thread
}

impl Session {
    pub(in crate::kernel) fn new(unit: Unit) -> Self {
        if let Unit::Tiles(_) = unit {
            let before = SESSIONS.replace(SESSIONS.get() + 1);
            if before == 0 {
                // SAFETY: there are tiles.
                unsafe { tiles::configure() };
            }
        }
        Self {
            unit,
            here: PhantomData,
        }
    }

    /// Overwrites `sums`, or adds to it, with the products of one or two tiles of rows and
    /// the 32 columns of a panel: for each step in order, the even and the odd terms are
    /// summed apart, and both sums are added. (`vdpbf16ps` adds term by term instead.)
    #[inline(always)]
    pub(in crate::kernel) fn multiply(&self, operands: Operands, start: Start, sums: &mut Sums) {
        operands.check();
        match self.unit {
            // SAFETY: the operands are checked, and the tiles are configured.
            Unit::Tiles(_) => unsafe { tiles::multiply(operands, start, sums) },
            // SAFETY: the processor has the instruction.
            Unit::Dots(_) => unsafe { dots::multiply(operands, start, sums) },
            Unit::Emulated => emulated::multiply(operands, start, sums),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Unit::Tiles(_) = self.unit {
            let left = SESSIONS.get() - 1;
            SESSIONS.set(left);
            if left == 0 {
                // SAFETY: there are tiles, and nobody on this thread uses them any more.
                unsafe { tiles::release() };
            }
        }
    }
}

#[cfg(test)]
mod tests;
