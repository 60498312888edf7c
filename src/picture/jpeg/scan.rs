//! The scans of a JPEG: all their Huffman codes are read, so that it is known whether every
//! MCU is there.

use super::{
    block::BlockReader,
    frame::{Component, Frame},
    huffman::{Bits, Stopped, Table},
};
use crate::picture::Reason;

/// Coefficients of a block.
pub(super) const COEFFICIENTS: usize = 64;
/// The precision of a coefficient of which no scan was met.
const NEVER: u8 = u8::MAX;

/// Huffman tables for DC and AC.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) dc: [Option<Table>; 4],
    pub(super) ac: [Option<Table>; 4],
}

/// A component of a scan.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Its place in the frame.
    pub(super) place: usize,
    /// The tables of its DC and AC codes.
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// The header of a scan.
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// First and last coefficient in zigzag order.
    pub(super) band: (usize, usize),
    /// Bits that earlier scans left, and that this one leaves (successive approximation).
    pub(super) high: u8,
    low: u8,
}

impl Scan {
    /// Reads the segment of a start of scan.
    pub(super) fn read(segment: &[u8], frame: &Frame) -> Result<Self, Reason> {
        let invalid = || Reason::from("the file is damaged: a scan header is not valid");
        let (&count, rest) = segment.split_first().ok_or_else(invalid)?;
        let listed = rest.chunks_exact(2).take(usize::from(count));
        let part = |pair: &[u8]| {
            let place = frame.components.iter().position(|one| one.id == pair[0])?;
            let (dc, ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            Some(Part { place, dc, ac })
        };
        let parts: Option<Vec<_>> = listed.map(part).collect();
        let parts = parts.ok_or_else(invalid)?;
        let &[first, last, bits] = rest.get(2 * parts.len()..).unwrap_or_default() else {
            return Err(invalid());
        };
        let scan = Self {
            band: match frame.is_progressive {
                true => (first.into(), last.into()),
                false => (0, COEFFICIENTS - 1),
            },
            high: bits >> 4,
            low: bits & 15,
            parts,
        };
        match scan.is_valid(frame) && scan.parts.len() == usize::from(count) {
            true => Ok(scan),
            false => Err(invalid()),
        }
    }

    fn is_valid(&self, frame: &Frame) -> bool {
        let places = |place: usize| self.parts.iter().filter(move |part| part.place == place);
        let (first, last) = self.band;
        let is_once = (0..frame.components.len()).all(|place| places(place).count() <= 1);
        let is_band = match (frame.is_progressive, first) {
            (false, _) => true,
            (true, 0) => last == 0,
            (true, _) => (first..COEFFICIENTS).contains(&last) && self.parts.len() == 1,
        };
        !self.parts.is_empty() && is_once && is_band && self.high.max(self.low) <= 13
    }

    /// Whether it holds all components of the frame.
    pub(super) fn is_of_all(&self, frame: &Frame) -> bool {
        self.parts.len() == frame.components.len()
    }

    /// Whether it holds its blocks row by row, as progressive scans of one component do.
    pub(super) fn is_in_rows(&self, frame: &Frame) -> bool {
        let is_single = |part: &Part| frame.components[part.place].sampling() == (1, 1);
        self.parts.len() == 1 || self.parts.iter().all(is_single)
    }

    /// The number of its components.
    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    /// The segment with the places of components for their names, as in [`Frame::segment`].
    pub(super) fn segment(&self) -> Vec<u8> {
        let listed = |part: &Part| [part.place as u8 + 1, (part.dc << 4 | part.ac) as u8];
        let all: Vec<_> = self.parts.iter().flat_map(listed).collect();
        let (first, last) = self.band;
        let band = [first as u8, last as u8, self.high << 4 | self.low];
        [&[self.parts.len() as u8], &all[..], &band].concat()
    }

    /// The segments of the progressive scans that hold the same as this one of a baseline
    /// frame: the DC coefficients of all components, then the others of each.
    pub(super) fn as_progressive(&self) -> impl Iterator<Item = Vec<u8>> {
        let with = |parts: &[Part], band| Self {
            parts: parts.into(),
            band,
            high: 0,
            low: 0,
        };
        let means = with(&self.parts, (0, 0)).segment();
        let others = self.parts.chunks(1);
        let others = others.map(move |part| with(part, (1, COEFFICIENTS - 1)).segment());
        std::iter::once(means).chain(others)
    }

    /// MCUs in a row and in a column.
    fn mcus(&self, frame: &Frame) -> (usize, usize) {
        match self.parts[..] {
            [part] => frame.alone(&frame.components[part.place]),
            _ => frame.mcus(),
        }
    }

    /// Blocks of a component in an MCU, in a row and in a column.
    fn in_mcu(&self, component: &Component) -> (usize, usize) {
        match self.parts.len() {
            1 => (1, 1),
            _ => component.sampling(),
        }
    }

    /// The number of its blocks.
    pub(super) fn blocks(&self, frame: &Frame) -> usize {
        let (columns, rows) = self.mcus(frame);
        let of_part = |part: &Part| {
            let (across, down) = self.in_mcu(&frame.components[part.place]);
            across * down
        };
        columns * rows * self.parts.iter().map(of_part).sum::<usize>()
    }

    /// The part and the block of the frame for each block of an MCU, in their order.
    fn blocks_of(&self, mcu: usize, frame: &Frame) -> impl Iterator<Item = (usize, usize)> {
        let (columns, _) = self.mcus(frame);
        let (row, column) = (mcu / columns, mcu % columns);
        self.parts.iter().enumerate().flat_map(move |(i, part)| {
            let component = &frame.components[part.place];
            let (across, down) = self.in_mcu(component);
            let (width, _) = frame.padded(component);
            let first = row * down * width + column * across;
            (0..down).flat_map(move |y| (0..across).map(move |x| (i, first + y * width + x)))
        })
    }
}

/// What the scans so far brought.
pub(super) struct Coefficients {
    /// Of each block of each component of a progressive frame, which coefficients are not 0.
    nonzero: Vec<Vec<u64>>,
    /// Of each component, the bits that every coefficient lacks.
    lacking: Vec<[u8; COEFFICIENTS]>,
}

impl Coefficients {
    pub(super) fn new(frame: &Frame) -> Self {
        let components = frame.components.iter();
        let blocks = components.map(|component| match frame.is_progressive {
            true => {
                let (columns, rows) = frame.padded(component);
                vec![0; columns * rows]
            }
            false => Vec::new(),
        });
        Self {
            nonzero: blocks.collect(),
            lacking: vec![[NEVER; COEFFICIENTS]; frame.components.len()],
        }
    }

    /// Whether all bits of all coefficients were there.
    pub(super) fn are_complete(&self) -> bool {
        self.lacking.as_flattened().iter().all(|bits| *bits == 0)
    }

    /// Whether every component has a mean in each block, which makes a picture.
    pub(super) fn are_viewable(&self) -> bool {
        self.lacking.iter().all(|bits| bits[0] != NEVER)
    }

    /// Reads a scan, with a restart marker behind every `interval` MCUs if that is not 0.
    pub(super) fn read(
        &mut self,
        (frame, scan): (&Frame, &Scan),
        tables: &Tables,
        interval: usize,
        bits: &mut Bits,
    ) -> Result<(), Reason> {
        let mut reader = BlockReader::new(scan, frame.is_progressive, tables)?;
        let (columns, rows) = scan.mcus(frame);
        for mcu in 0..columns * rows {
            if interval > 0 && mcu > 0 && mcu % interval == 0 {
                bits.restart().map_err(told)?;
                reader.restart();
            }
            for (i, block) in scan.blocks_of(mcu, frame) {
                let nonzero = self.nonzero[scan.parts[i].place].get_mut(block);
                reader.block(i, nonzero, bits).map_err(told)?;
            }
        }
        let (first, last) = scan.band;
        for part in &scan.parts {
            let low = if frame.is_progressive { scan.low } else { 0 };
            self.lacking[part.place][first..=last].fill(low);
        }
        Ok(())
    }
}

fn told(stopped: Stopped) -> Reason {
    match stopped {
        Stopped::Ended => "the file is cut off".into(),
        Stopped::Invalid => "the file is damaged: its pixels are no Huffman codes".into(),
    }
}
