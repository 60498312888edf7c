//! What a file says of its picture beside the pixels, before and behind them.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use image::{ImageFormat, metadata::Orientation};

use super::{exif, jpeg, note, png};

/// Longest text of settings and EXIF, in bytes.
pub(super) const MAX_TEXT: usize = 1 << 20;
/// Longest colour profile in bytes.
const MAX_PROFILE: usize = 16 << 20;

/// Most chunks of a PNG that are read; each may be inflated a thousandfold.
const MAX_CHUNKS: usize = 16;

/// Keywords of the texts of PNGs.
const RAW_EXIF: &[u8] = b"Raw profile type exif";
const RAW_APP1: &[u8] = b"Raw profile type APP1";
const RAW_XMP: &[u8] = b"Raw profile type xmp";
const XMP: &[u8] = b"XML:com.adobe.xmp";
const KEYWORDS: [&[u8]; 5] = [RAW_EXIF, RAW_APP1, RAW_XMP, XMP, note::KEYWORD.as_bytes()];

/// What a file says of its picture.
#[derive(Default)]
pub(super) struct Metadata {
    exif: Vec<Vec<u8>>,
    xmp: Option<Vec<u8>>,
    profile: Option<Vec<u8>>,
    /// The note in the text of a PNG; the first of several.
    note: Option<String>,
}

impl Metadata {
    /// Reads all chunks or segments. What is damaged or too long is left out.
    pub(super) fn of(bytes: &[u8], format: ImageFormat) -> Self {
        match format {
            ImageFormat::Png => Self::of_png(bytes),
            ImageFormat::Jpeg => Self::of_jpeg(bytes),
            ImageFormat::WebP => Self::of_webp(bytes),
            _ => Self::default(),
        }
    }

    /// How the pixels are to be turned; EXIF goes before XMP, as in Pillow.
    pub(super) fn orientation(&self) -> Orientation {
        let in_exif = self.exif.iter().find_map(|exif| exif::orientation(exif));
        let in_xmp = || exif::orientation_in_xmp(self.xmp.as_deref()?);
        in_exif.or_else(in_xmp).unwrap_or(Orientation::NoTransforms)
    }

    /// The ICC colour profile, if it is one of RGB: those of grey and CMYK pictures do not fit
    /// the converted pixels (ICC.1, 7.2.6).
    pub(super) fn profile(self) -> Option<Arc<[u8]>> {
        let profile = self.profile?;
        (profile.get(16..20) == Some(b"RGB ")).then(|| profile.into())
    }

    /// The note; that in a PNG's own text goes before EXIF, which other programs copy.
    pub(super) fn into_note(self) -> Option<String> {
        let in_exif = || self.exif.iter().find_map(|exif| note::in_exif(exif));
        self.note.or_else(in_exif)
    }

    fn of_png(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let kinds: [&[u8; 4]; 5] = [b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt"];
        let is_wanted = |chunk: &png::Chunk| match &chunk.kind {
            b"eXIf" | b"iCCP" => true,
            _ => png::cut(chunk.data).is_some_and(|(keyword, _)| KEYWORDS.contains(&keyword)),
        };
        let wanted = png::chunks(bytes, &kinds).filter(is_wanted);
        for chunk in wanted.take(MAX_CHUNKS) {
            found.take(chunk);
        }
        found
    }

    fn take(&mut self, chunk: png::Chunk) {
        match &chunk.kind {
            b"eXIf" => self.exif.insert(0, chunk.data.into()),
            b"iCCP" if self.profile.is_none() => self.profile = profile_in(chunk.data),
            _ => {
                let Some((keyword, content)) = png::cut(chunk.data) else {
                    return;
                };
                if let Some(text) = png::text(chunk.kind, content, MAX_TEXT) {
                    self.take_text(keyword, text);
                }
            }
        }
    }

    fn take_text(&mut self, keyword: &[u8], text: Vec<u8>) {
        match keyword {
            RAW_EXIF | RAW_APP1 => self.exif.extend(raw_profile(&text)),
            RAW_XMP => self.xmp = raw_profile(&text),
            XMP => self.xmp = Some(text),
            _ if self.note.is_none() => self.note = String::from_utf8(text).ok(),
            _ => {}
        }
    }

    fn of_jpeg(bytes: &[u8]) -> Self {
        const APP1: u8 = 0xe1;
        const APP2: u8 = 0xe2;
        let mut found = Self::default();
        let mut parts = Vec::new();
        for segment in jpeg::segments(bytes) {
            match segment.marker {
                APP1 if segment.content.starts_with(b"Exif\0") => {
                    found.exif.push(segment.content.into());
                }
                APP1 if segment
                    .content
                    .starts_with(b"http://ns.adobe.com/xap/1.0/\0") =>
                {
                    found.xmp = Some(segment.content.into());
                }
                APP2 => parts.extend(segment.content.strip_prefix(b"ICC_PROFILE\0")),
                _ => {}
            }
        }
        found.profile = joined(&parts);
        found
    }

    fn of_webp(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let mut rest = bytes.get(12..).unwrap_or_default();
        while let Some((head, behind)) = rest.split_first_chunk::<8>() {
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let Some(data) = behind.get(..length) else {
                break;
            };
            match &head[..4] {
                b"EXIF" => found.exif.push(data.into()),
                b"XMP " => found.xmp = Some(data.into()),
                b"ICCP" => found.profile = Some(data.into()),
                _ => {}
            }
            // An odd chunk is filled up.
            rest = behind.get(length + length % 2..).unwrap_or_default();
        }
        found
    }
}

/// The profile in an iCCP chunk.
fn profile_in(chunk: &[u8]) -> Option<Vec<u8>> {
    let (_name, rest) = png::cut(chunk)?;
    png::inflated(rest.strip_prefix(&[0])?, MAX_PROFILE)
}

/// A profile as ImageMagick writes it into text: a line with its kind, one with its length, and
/// hexadecimal digits.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.strip_prefix(b"\n")?.splitn(3, |byte| *byte == b'\n');
    let digits = lines
        .last()?
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace());
    let digits: Option<Vec<_>> = digits
        .map(|digit| char::from(*digit).to_digit(16))
        .collect();
    let digits = digits?;
    let (pairs, _) = digits.as_chunks::<2>();
    Some(
        pairs
            .iter()
            .map(|[high, low]| (16 * high + low) as u8)
            .collect(),
    )
}

/// A profile from its parts, each with its number from 1 on and the count of all.
fn joined(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let numbered = (1..=parts.len()).map(|number| {
        let is_it = |part: &&&[u8]| part.starts_with(&[number as u8, parts.len() as u8]);
        Some(&parts.iter().find(is_it)?[2..])
    });
    let in_order: Option<Vec<_>> = numbered.collect();
    in_order
        .filter(|parts| !parts.is_empty())
        .map(|parts| parts.concat())
}
