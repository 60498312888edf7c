//! What the JPEG decoder is asked, and what not: it fills in pixels that are missing, places the
//! samples of rare frames wrongly, and loses rows of baseline frames of several scans.
//!
//! All markers and Huffman codes are read before. The decoder gets what makes the pixels alone;
//! baseline frames of several scans become progressive ones, whose scans hold the same codes.

mod block;
mod frame;
mod huffman;
mod scan;
mod segment;
#[cfg(test)]
mod tests;

use super::{Reason, decode::too_large};
use frame::{Frame, unread};
use huffman::{Bits, Table};
use scan::{Coefficients, Scan, Tables};
pub(super) use segment::segments;
use segment::{Segment, marker, segment_at};

/// Most scans of a picture; encoders write about ten.
const MAX_SCANS: usize = 100;
/// Most blocks of all scans together.
const MAX_BLOCKS: usize = 1 << 26;
/// Bytes that a block of several scans takes: its coefficients, and which of them are not 0.
const BLOCK_BYTES: usize = 2 * 64 + 8;
/// Most bytes of blocks.
const MAX_BLOCK_BYTES: usize = 1 << 30;

/// The part of a JPEG that makes its pixels: what is whole, and what the decoder reads right.
///
/// A picture is whole if all its MCUs are there, with or without an end marker; whatever
/// follows does not count.
pub(super) fn pixels(bytes: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut reader = Reader::new(bytes);
    while !reader.is_complete() {
        let Some(segment) = segment_at(bytes, reader.at) else {
            return Err("the file is cut off".into());
        };
        match segment.marker {
            // An end behind something else is not this picture's.
            marker::EOI if segment.is_next && reader.is_viewable() => break,
            marker::EOI | marker::SOI => return Err("the file is cut off".into()),
            _ => reader.read(segment)?,
        }
    }
    Ok(reader.written())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    tables: Tables,
    interval: usize,
    frame: Option<(Frame, Coefficients)>,
    /// Where the frame is in what the decoder gets.
    frame_at: usize,
    scans: usize,
    blocks: usize,
    colours: Colours,
    /// What the decoder gets, without the head.
    out: Vec<u8>,
}

/// What states the colours of the components.
#[derive(Default)]
struct Colours {
    is_jfif: bool,
    /// The transform of an Adobe segment.
    adobe: Option<u8>,
}

impl Colours {
    fn read(&mut self, segment: Segment) {
        match (segment.marker, segment.content) {
            (marker::APP0, [b'J', b'F', b'I', b'F', 0, ..]) => self.is_jfif = true,
            (
                marker::APP14,
                [
                    b'A',
                    b'd',
                    b'o',
                    b'b',
                    b'e',
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    transform,
                    ..,
                ],
            ) => {
                self.adobe = Some(*transform);
            }
            _ => {}
        }
    }

    /// The transform as libjpeg understands it (`default_decompress_parms`): 0 none, 1 YCbCr,
    /// 2 YCCK.
    fn transform(&self, frame: &Frame) -> Option<u8> {
        let ids: Vec<_> = frame.components.iter().map(|one| one.id).collect();
        match (ids.len(), self.adobe) {
            (3, Some(0)) if !self.is_jfif => Some(0),
            (3, None) if !self.is_jfif && ids == *b"RGB" => Some(0),
            (3, _) => Some(1),
            (4, None | Some(0)) => Some(0),
            (4, Some(_)) => Some(2),
            _ => None,
        }
    }
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 2,
            tables: Tables::default(),
            interval: 0,
            frame: None,
            frame_at: 0,
            scans: 0,
            blocks: 0,
            colours: Colours::default(),
            out: Vec::with_capacity(bytes.len()),
        }
    }

    fn is_complete(&self) -> bool {
        self.frame
            .as_ref()
            .is_some_and(|(_, found)| found.are_complete())
    }

    fn is_viewable(&self) -> bool {
        self.frame
            .as_ref()
            .is_some_and(|(_, found)| found.are_viewable())
    }

    fn read(&mut self, segment: Segment) -> Result<(), Reason> {
        self.at = segment.end;
        match segment.marker {
            marker::DHT => self.tables(segment.content)?,
            marker::DRI => self.restarts(segment.content)?,
            marker::SOS => return self.scan(segment),
            marker::DAC | marker::DHP | marker::JPEG_LS | 0xc0..=0xcf
                if segment.marker != marker::JPG =>
            {
                return self.frame(segment);
            }
            marker::DQT => {}
            _ => {
                self.colours.read(segment);
                return Ok(());
            }
        }
        self.write(segment.marker, segment.content);
        Ok(())
    }

    /// DHT: tables of DC and AC.
    fn tables(&mut self, mut content: &[u8]) -> Result<(), Reason> {
        let invalid = || Reason::from("the file is damaged: a Huffman table is not valid");
        while let Some((&place, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(invalid)?;
            let length = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(..length).ok_or_else(invalid)?;
            let tables = match place >> 4 {
                0 => &mut self.tables.dc,
                _ => &mut self.tables.ac,
            };
            let slot = tables
                .get_mut(usize::from(place & 15))
                .ok_or_else(invalid)?;
            *slot = Some(Table::new(counts, symbols).ok_or_else(invalid)?);
            content = &rest[length..];
        }
        Ok(())
    }

    fn restarts(&mut self, content: &[u8]) -> Result<(), Reason> {
        let &[high, low] = content else {
            return Err("the file is damaged: its restart interval is not valid".into());
        };
        self.interval = usize::from(u16::from_be_bytes([high, low]));
        Ok(())
    }

    fn frame(&mut self, segment: Segment) -> Result<(), Reason> {
        match segment.marker {
            marker::DHP => return Err(unread("a hierarchical JPEG")),
            marker::DAC => return Err(unread("a JPEG of arithmetic coding")),
            _ if self.frame.is_some() => {
                return Err("the file is damaged: it has two frames".into());
            }
            _ => {}
        }
        let frame = Frame::read(segment.marker, segment.content)?;
        if frame.is_progressive {
            check_memory(&frame)?;
        }
        let found = Coefficients::new(&frame);
        self.frame_at = self.out.len();
        self.write(segment.marker, &frame.segment());
        self.frame = Some((frame, found));
        Ok(())
    }

    fn scan(&mut self, segment: Segment) -> Result<(), Reason> {
        let Some((frame, found)) = &mut self.frame else {
            return Err("the file is damaged: a scan comes before the frame".into());
        };
        let scan = Scan::read(segment.content, frame)?;
        let splits = !frame.is_progressive && !scan.is_of_all(frame);
        if splits && !scan.is_in_rows(frame) {
            return Err(unread(
                "a baseline JPEG of several scans of several components",
            ));
        }
        self.scans += 1;
        self.blocks += scan.blocks(frame);
        if self.scans > MAX_SCANS || self.blocks > MAX_BLOCKS {
            return Err(too_many_scans(self.scans));
        }
        let places = if splits { 1 + scan.count() } else { 0 };
        let mut bits = Bits::new(self.bytes, segment.end).copied(places);
        found.read((frame, &scan), &self.tables, self.interval, &mut bits)?;
        self.at = bits.end();
        if splits {
            check_memory(frame)?;
            self.out[self.frame_at + 1] = marker::SOF2;
            for (header, codes) in scan.as_progressive().zip(bits.copies()) {
                self.write(marker::SOS, &header);
                self.out.extend(codes);
            }
        } else {
            self.write(marker::SOS, &scan.segment());
            self.out.extend(&self.bytes[segment.end..self.at]);
        }
        Ok(())
    }

    /// Writes a segment for the decoder.
    fn write(&mut self, marker: u8, content: &[u8]) {
        let length = content.len() as u16 + 2; // it was read from 16 bits
        self.out.extend([0xff, marker]);
        self.out.extend(length.to_be_bytes());
        self.out.extend(content);
    }

    /// The stream for the decoder: it begins with the one segment that states the colours.
    fn written(mut self) -> Vec<u8> {
        let frame = self.frame.as_ref();
        let transform = frame.and_then(|(frame, _)| self.colours.transform(frame));
        let body = std::mem::take(&mut self.out);
        self.out.extend([0xff, marker::SOI]);
        if let Some(transform) = transform {
            let mut adobe = *b"Adobe\0\x64\0\0\0\0\0";
            adobe[11] = transform;
            self.write(marker::APP14, &adobe);
        }
        self.out.extend(body);
        self.out.extend([0xff, marker::EOI]);
        self.out
    }
}

/// Fails if the coefficients, which the decoder holds for several scans, take too much.
fn check_memory(frame: &Frame) -> Result<(), Reason> {
    match frame.blocks() * BLOCK_BYTES > MAX_BLOCK_BYTES {
        true => Err(too_large()),
        false => Ok(()),
    }
}

fn too_many_scans(scans: usize) -> Reason {
    let reason = format!(
        "its {scans} scans are more than can be read (at most {MAX_SCANS}, of {MAX_BLOCKS} blocks \
         in all): save it again as PNG or as a usual JPEG"
    );
    reason.into()
}
