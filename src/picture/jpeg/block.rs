//! The blocks of a scan (ITU-T T.81, F.2 and G.2).

use super::{
    huffman::{Bits, Stopped, Table},
    scan::{COEFFICIENTS, Part, Scan, Tables},
};
use crate::picture::Reason;

/// The tables that a component of a scan needs.
type Coder<'a> = (Option<&'a Table>, Option<&'a Table>);

/// Reads the blocks of a scan one after the other.
pub(super) struct BlockReader<'a> {
    scan: &'a Scan,
    is_progressive: bool,
    coders: Vec<Coder<'a>>,
    /// Blocks that a code has skipped.
    skipped: u32,
}

impl<'a> BlockReader<'a> {
    /// Fails if a table is missing.
    pub(super) fn new(
        scan: &'a Scan,
        is_progressive: bool,
        tables: &'a Tables,
    ) -> Result<Self, Reason> {
        let uses_first = scan.band.0 == 0 && scan.high == 0 || !is_progressive;
        let uses_others = scan.band.1 > 0;
        let coder = |part: &Part| {
            let pair = (
                tables.dc.get(part.dc).and_then(Option::as_ref),
                tables.ac.get(part.ac).and_then(Option::as_ref),
            );
            let is_there = (pair.0.is_some() || !uses_first) && (pair.1.is_some() || !uses_others);
            is_there.then_some(pair)
        };
        let coders: Option<_> = scan.parts.iter().map(coder).collect();
        let missing = "the file is damaged: a Huffman table is missing";
        Ok(Self {
            scan,
            is_progressive,
            coders: coders.ok_or(missing)?,
            skipped: 0,
        })
    }

    /// Goes on behind a restart marker.
    pub(super) fn restart(&mut self) {
        self.skipped = 0;
    }

    /// Reads a block of the part `i` of the scan; of a progressive frame, `nonzero` holds which
    /// of its coefficients are not 0.
    pub(super) fn block(
        &mut self,
        i: usize,
        nonzero: Option<&mut u64>,
        bits: &mut Bits,
    ) -> Result<(), Stopped> {
        let (dc, ac) = self.coders[i];
        let (first, refines) = (self.scan.band.0, self.scan.high > 0);
        let mut none = 0;
        let nonzero = nonzero.unwrap_or(&mut none);
        match (self.is_progressive, first, refines) {
            (true, 0, true) => bits.take(1).map(drop),
            (true, 0, false) => mean(dc, bits),
            (true, _, true) => self.refined(ac, nonzero, bits),
            (true, _, false) => self.band(ac, nonzero, bits),
            (false, ..) => {
                bits.copy_to(0);
                mean(dc, bits)?;
                bits.copy_to(1 + i);
                whole(ac, bits)
            }
        }
    }

    /// The first scan of a band.
    fn band(
        &mut self,
        ac: Option<&Table>,
        nonzero: &mut u64,
        bits: &mut Bits,
    ) -> Result<(), Stopped> {
        if self.skipped > 0 {
            self.skipped -= 1;
            return Ok(());
        }
        let ac = ac.ok_or(Stopped::Invalid)?;
        let (mut k, last) = self.scan.band;
        while k <= last {
            let symbol = bits.symbol(ac)?;
            let (run, size) = (symbol >> 4, symbol & 15);
            match (run, size) {
                (15, 0) => k += 16,
                (_, 0) => {
                    self.skipped = (1 << run) + bits.take(run)? - 1;
                    break;
                }
                _ => {
                    bits.take(size)?;
                    k += usize::from(run);
                    *nonzero |= 1_u64.checked_shl(k as u32).unwrap_or(0);
                    k += 1;
                }
            }
        }
        Ok(())
    }

    /// A scan that brings one more bit of a band: of coefficients that were not 0 a bit each,
    /// and codes for those that no longer are.
    fn refined(
        &mut self,
        ac: Option<&Table>,
        nonzero: &mut u64,
        bits: &mut Bits,
    ) -> Result<(), Stopped> {
        let ac = ac.ok_or(Stopped::Invalid)?;
        let (mut k, last) = self.scan.band;
        while self.skipped == 0 && k <= last {
            let symbol = bits.symbol(ac)?;
            let (run, size) = (symbol >> 4, symbol & 15);
            if size == 0 && run < 15 {
                self.skipped = (1 << run) + bits.take(run)?;
                break;
            }
            bits.take(u8::from(size > 0))?;
            let mut zeros = run;
            while k <= last {
                if *nonzero >> k & 1 == 1 {
                    bits.take(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if size > 0 && k <= last {
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if self.skipped > 0 {
            let left = (k..=last).filter(|k| *nonzero >> k & 1 == 1).count();
            (0..left).try_for_each(|_| bits.take(1).map(drop))?;
            self.skipped -= 1;
        }
        Ok(())
    }
}

/// The difference of a DC coefficient.
fn mean(dc: Option<&Table>, bits: &mut Bits) -> Result<(), Stopped> {
    let size = bits.symbol(dc.ok_or(Stopped::Invalid)?)?;
    match size {
        0..=16 => bits.take(size).map(drop),
        _ => Err(Stopped::Invalid),
    }
}

/// All AC coefficients of a block.
fn whole(ac: Option<&Table>, bits: &mut Bits) -> Result<(), Stopped> {
    let ac = ac.ok_or(Stopped::Invalid)?;
    let mut k = 1;
    while k < COEFFICIENTS {
        let symbol = bits.symbol(ac)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        match (run, size) {
            (15, 0) => k += 16,
            (0, 0) => break,
            (_, 0) => return Err(Stopped::Invalid),
            _ => {
                bits.take(size)?;
                k += usize::from(run) + 1;
            }
        }
    }
    Ok(())
}
