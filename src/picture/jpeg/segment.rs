//! The segments of a JPEG (ITU-T T.81, annex B).

use super::huffman::marker_in;

/// Markers: the bytes behind 0xff.
pub(super) mod marker {
    pub(in super::super) const SOF2: u8 = 0xc2;
    pub(in super::super) const DHT: u8 = 0xc4;
    pub(in super::super) const JPG: u8 = 0xc8;
    pub(in super::super) const DAC: u8 = 0xcc;
    pub(in super::super) const SOI: u8 = 0xd8;
    pub(in super::super) const EOI: u8 = 0xd9;
    pub(in super::super) const SOS: u8 = 0xda;
    pub(in super::super) const DQT: u8 = 0xdb;
    pub(in super::super) const DRI: u8 = 0xdd;
    pub(in super::super) const DHP: u8 = 0xde;
    pub(in super::super) const APP0: u8 = 0xe0;
    pub(in super::super) const APP14: u8 = 0xee;
    pub(in super::super) const JPEG_LS: u8 = 0xf7;
}

/// A marker with its segment.
#[derive(Clone, Copy)]
pub(in super::super) struct Segment<'a> {
    /// The byte behind 0xff.
    pub(in super::super) marker: u8,
    /// What follows its length; empty for markers without a segment.
    pub(in super::super) content: &'a [u8],
    /// Whether the marker stood where the last one's segment ended.
    pub(super) is_next: bool,
    /// Where the segment ends in the file.
    pub(super) end: usize,
}

/// The first marker from `at` on; `None` if there is none, or if its segment is cut off.
pub(super) fn segment_at(bytes: &[u8], at: usize) -> Option<Segment<'_>> {
    let rest = bytes.get(at..)?;
    let found = marker_in(rest)?;
    let is_next = rest[..found].iter().all(|byte| *byte == 0xff);
    let (marker, start) = (rest[found + 1], at + found + 2);
    let length = match marker {
        0x01 | 0xd0..=0xd9 => {
            return Some(Segment {
                marker,
                content: &[],
                is_next,
                end: start,
            });
        }
        _ => bytes.get(start..start + 2)?,
    };
    let end = start + usize::from(u16::from_be_bytes([length[0], length[1]]));
    let content = bytes.get(start + 2..end)?;
    Some(Segment {
        marker,
        content,
        is_next,
        end,
    })
}

/// The segments before the first scan.
pub(in super::super) fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut at = 2;
    std::iter::from_fn(move || {
        let segment = segment_at(bytes, at)?;
        at = segment.end;
        (!matches!(segment.marker, marker::SOS | marker::EOI)).then_some(segment)
    })
}
