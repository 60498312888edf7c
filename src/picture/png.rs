//! The chunks of a PNG, and its pixels.

use std::io::{Cursor, Read};

use flate2::{Crc, read::ZlibDecoder};
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use png::{BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Limits, Transformations};

use super::{
    Reason,
    decode::{MAX_BYTES, MAX_SIDE, damaged, too_large},
};

/// The first bytes of a PNG.
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Bytes of a chunk beside its data: length, kind, checksum.
const AROUND: usize = 12;
/// The end of a PNG.
const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// A chunk.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub(super) kind: [u8; 4],
    pub(super) data: &'a [u8],
    /// With length and checksum.
    whole: &'a [u8],
}

impl Chunk<'_> {
    /// Whether its checksum is right.
    fn is_intact(&self) -> bool {
        let mut crc = Crc::new();
        crc.update(&self.kind);
        crc.update(self.data);
        self.whole.ends_with(&crc.sum().to_be_bytes())
    }
}

/// The chunks up to the end, or up to the first one that is cut off.
fn all_chunks(png: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = png.strip_prefix(SIGNATURE).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, _) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let whole = rest.get(..length.checked_add(AROUND)?)?;
        rest = &rest[whole.len()..];
        let kind = whole[4..8].try_into().ok()?;
        let data = &whole[8..8 + length];
        Some(Chunk { kind, data, whole })
    })
    .take_while(|chunk| &chunk.kind != b"IEND")
}

/// The chunks of these kinds with right checksums, before and behind the pixels.
pub(super) fn chunks<'a>(png: &'a [u8], kinds: &'a [&[u8; 4]]) -> impl Iterator<Item = Chunk<'a>> {
    let of_kind = all_chunks(png).filter(|chunk| kinds.contains(&&chunk.kind));
    of_kind.filter(Chunk::is_intact)
}

/// The pixels of a PNG, whose checksums must be right: those of chunks, and that of the
/// compressed pixels, which `image` would not compare.
pub(super) fn pixels(png: &[u8]) -> Result<DynamicImage, Reason> {
    let fault = |error| match error {
        DecodingError::LimitsExceeded => too_large(),
        error => damaged(&error.to_string()),
    };
    let mut options = DecodeOptions::default();
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(of_pixels(png)?), options);
    decoder.set_limits(Limits { bytes: MAX_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    let sides = decoder.read_header_info().map_err(fault)?.size();
    if sides.0.max(sides.1) > MAX_SIDE {
        return Err(too_large());
    }
    let mut reader = decoder.read_info().map_err(fault)?;
    let bytes = reader.output_buffer_size();
    let bytes = bytes.filter(|bytes| *bytes <= MAX_BYTES);
    let mut values = vec![0; bytes.ok_or_else(too_large)?];
    reader.next_frame(&mut values).map_err(fault)?;
    let image = image_of(values, sides, reader.output_color_type());
    image.ok_or_else(|| damaged("its pixels do not fill it"))
}

/// An image of 8-bit values, or of 16-bit ones of which 8 bits are taken, rounded.
fn image_of(
    values: Vec<u8>,
    (width, height): (u32, u32),
    (colour, depth): (ColorType, BitDepth),
) -> Option<DynamicImage> {
    let values = match depth {
        BitDepth::Sixteen => rounded(values),
        _ => values,
    };
    Some(match colour {
        ColorType::Grayscale => GrayImage::from_raw(width, height, values)?.into(),
        ColorType::GrayscaleAlpha => GrayAlphaImage::from_raw(width, height, values)?.into(),
        ColorType::Rgb => RgbImage::from_raw(width, height, values)?.into(),
        ColorType::Rgba => RgbaImage::from_raw(width, height, values)?.into(),
        ColorType::Indexed => return None, // they were expanded
    })
}

/// Big-endian values of 16 bits as values of 8, in place: divided by 257.
fn rounded(mut values: Vec<u8>) -> Vec<u8> {
    let count = values.len() / 2;
    for at in 0..count {
        let value = u16::from_be_bytes([values[2 * at], values[2 * at + 1]]);
        values[at] = ((u32::from(value) + 128) / 257) as u8;
    }
    values.truncate(count);
    values.shrink_to_fit();
    values
}

/// The part of a PNG that makes its pixels: the decoder gets no text, profile or animation,
/// and an end, which may be missing where all pixels are there.
fn of_pixels(png: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut out = SIGNATURE.to_vec();
    for chunk in all_chunks(png) {
        let kind = chunk.kind.escape_ascii();
        let reason = match &chunk.kind {
            b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" if chunk.is_intact() => {
                out.extend(chunk.whole);
                continue;
            }
            b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" => {
                format!("the file is damaged: the checksum of a chunk {kind} is wrong")
            }
            b"CgBI" => "this is a PNG for iPhones alone (CgBI), which cannot be read: convert it, \
                        for example with Apple's `pngcrush -revert-iphone-optimizations`"
                .into(),
            [b'A'..=b'Z', ..] => format!("the file is damaged: no PNG has a chunk {kind}"),
            _ => continue, // nothing that makes pixels
        };
        return Err(reason.into());
    }
    out.extend(END);
    Ok(out)
}

/// What a zlib stream holds, if that is not more than `limit` bytes.
pub(super) fn inflated(stream: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let stream = ZlibDecoder::new(stream);
    stream.take(limit as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= limit).then_some(out)
}

/// The text behind the keyword of a tEXt, zTXt or iTXt chunk, if that is not more than `limit`
/// bytes.
pub(super) fn text(kind: [u8; 4], content: &[u8], limit: usize) -> Option<Vec<u8>> {
    let within = |text: &[u8]| (text.len() <= limit).then(|| text.to_vec());
    match (&kind, content) {
        (b"tEXt", text) => within(text),
        (b"zTXt", [0, stream @ ..]) => inflated(stream, limit),
        (b"iTXt", [is_compressed, _, rest @ ..]) => {
            let (_language, rest) = cut(rest)?;
            let (_translated, text) = cut(rest)?;
            match is_compressed {
                0 => within(text),
                _ => inflated(text, limit),
            }
        }
        _ => None,
    }
}

/// What is before and behind the first zero.
pub(super) fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}
