//! A note in a picture: of a PNG an international text chunk (iTXt) with the keyword `icd`; of a
//! JPEG or WebP the user's comment of EXIF, behind the same word and a space.
//!
//! EXIF is what most programs keep and show, and what others of this kind write. It is limited in
//! JPEG alone, to one segment of 64 KiB, which no prompt in use comes near: a longer note is
//! refused, rather than put where other programs lose it.

use png::{BitDepth, ColorType, Encoder, EncodingError, Info};

use super::{
    Format, Picture, exif,
    metadata::{MAX_TEXT, Metadata},
};
use crate::error::{Error, Result};

/// The keyword of the chunk, and the first word of the comment.
pub const KEYWORD: &str = "icd";

/// The names of encodings in comments (Exif 2.32, 4.6.6, table 9). UTF-16 is in the byte order of
/// the EXIF.
const ASCII: &[u8; 8] = b"ASCII\0\0\0";
const UNICODE: &[u8; 8] = b"UNICODE\0";
const UNDEFINED: &[u8; 8] = &[0; 8];

/// Most bytes of EXIF in a JPEG: a segment without its length and its name.
const MAX_IN_JPEG: usize = u16::MAX as usize - 2 - 6;

impl Picture {
    /// Encodes the picture with its colour profile and a note of any text. One that does not
    /// [fit](fits) is an error.
    pub fn encode_noted(&self, format: Format, note: &str) -> Result<Vec<u8>> {
        let size = self.size();
        let reason = |reason| format!("a {size} picture cannot be written as {format}: {reason}");
        if !fits(format, note) {
            let length = note.len();
            let too_long = format!("its note of {length} bytes is longer than the format holds");
            return Err(Error::setting(reason(too_long)));
        }
        match format {
            Format::Png => self
                .noted(note)
                .map_err(|error| Error::setting(reason(error.to_string()))),
            Format::Jpeg | Format::WebP => self.encode_with(format, Some(exif_with(note))),
        }
    }

    fn noted(&self, note: &str) -> Result<Vec<u8>, EncodingError> {
        let mut out = Vec::new();
        let size = self.size();
        let mut info = Info::with_size(size.width as u32, size.height as u32);
        info.color_type = ColorType::Rgb;
        info.bit_depth = BitDepth::Eight;
        info.icc_profile = self.profile().map(Into::into);
        let mut encoder = Encoder::with_info(&mut out, info)?;
        encoder.add_itxt_chunk(KEYWORD.into(), note.into())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels())?;
        writer.finish()?;
        Ok(out)
    }
}

/// Whether a file of this format can hold a note.
pub fn fits(format: Format, note: &str) -> bool {
    match format {
        Format::Png | Format::WebP => true,
        Format::Jpeg => exif_with(note).len() <= MAX_IN_JPEG,
    }
}

/// The note in the bytes of a picture, wherever in the file, if it has one of at most 1 MiB.
pub fn note(picture: &[u8]) -> Option<String> {
    let format = image::guess_format(picture).ok()?;
    Metadata::of(picture, format).into_note()
}

/// EXIF that holds a note alone.
fn exif_with(note: &str) -> Vec<u8> {
    exif::with_user_comment(&comment(&format!("{KEYWORD} {note}")))
}

/// A user's comment: in ASCII, if it is, which every program shows.
fn comment(text: &str) -> Vec<u8> {
    if text.is_ascii() {
        return [ASCII, text.as_bytes()].concat();
    }
    let units = text.encode_utf16().flat_map(u16::to_be_bytes);
    UNICODE.iter().copied().chain(units).collect()
}

/// The note in EXIF. Comments of other programs are none.
pub(super) fn in_exif(exif: &[u8]) -> Option<String> {
    let (encoding, text) = exif::user_comment(exif)?.split_first_chunk()?;
    if text.len() > 2 * MAX_TEXT {
        return None;
    }
    match encoding {
        ASCII | UNDEFINED => after_keyword(str::from_utf8(text).ok()?),
        // Programs that write EXIF anew may change its byte order without that of the comment.
        UNICODE => [u16::from_be_bytes, u16::from_le_bytes]
            .into_iter()
            .find_map(|order| {
                let units = text.as_chunks().0.iter().copied().map(order);
                after_keyword(&String::from_utf16(&units.collect::<Vec<_>>()).ok()?)
            }),
        _ => None,
    }
}

/// What stands behind the keyword, without the zeros that some programs put at the end.
fn after_keyword(text: &str) -> Option<String> {
    let note = text.strip_prefix(KEYWORD)?.strip_prefix(' ')?;
    let note = note.trim_end_matches('\0');
    (note.len() <= MAX_TEXT).then(|| note.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::picture::tests::noise;

    const FORMATS: [Format; 3] = [Format::Png, Format::Jpeg, Format::WebP];

    fn of_comment(comment: &[u8]) -> Option<String> {
        in_exif(&exif::with_user_comment(comment))
    }

    #[test]
    fn a_note_is_read_back_and_changes_no_pixel() {
        for format in FORMATS {
            let plain = noise(5, 3).encode(format).unwrap();
            let plain = Picture::decode(&plain, Path::new("a")).unwrap();
            for text in ["", "{\"a\":1}", "ein Vogel auf einem Ast: 鳥 🐦\n"] {
                let bytes = noise(5, 3).encode_noted(format, text).unwrap();
                assert_eq!(note(&bytes).as_deref(), Some(text), "{format}");
                let back = Picture::decode(&bytes, Path::new("a")).unwrap();
                assert_eq!(back, plain);
            }
        }
    }

    #[test]
    fn other_files_have_no_note() {
        let plain = FORMATS.map(|format| noise(5, 3).encode(format).unwrap());
        for bytes in plain.iter().map(|bytes| &bytes[..]) {
            assert_eq!(note(bytes), None);
        }
        for bytes in [&b""[..], b"text", &plain[0][..20]] {
            assert_eq!(note(bytes), None);
        }
    }

    #[test]
    fn comments_of_other_programs_are_no_notes() {
        for comment in [
            &b"ASCII\0\0\0a bird, steps: 20"[..],
            b"ASCII\0\0\0icdfoo {}",
            b"ASCII\0\0\0icd \xff",
            b"JIS\0\0\0\0\0icd {}",
            b"UNICODE\0\xd8\0\xd8\0",
            b"UNICODE\0i",
            b"ASCII\0\0\0",
            b"icd {}",
            b"",
        ] {
            assert_eq!(of_comment(comment), None, "{}", comment.escape_ascii());
        }
    }

    #[test]
    fn a_comment_is_read_however_other_programs_wrote_it_again() {
        let little = "icd {}".encode_utf16().flat_map(u16::to_le_bytes);
        let little = [&UNICODE[..], &little.collect::<Vec<_>>()].concat();
        for comment in [
            &little[..],
            b"ASCII\0\0\0icd {}\0\0",
            b"\0\0\0\0\0\0\0\0icd {}",
        ] {
            assert_eq!(of_comment(comment).as_deref(), Some("{}"));
        }
    }

    #[test]
    fn the_longest_note_of_a_jpeg_is_whole_and_a_longer_one_is_refused() {
        let most = MAX_IN_JPEG - exif_with("").len();
        let longest = "x".repeat(most);
        let bytes = noise(5, 3).encode_noted(Format::Jpeg, &longest).unwrap();
        assert_eq!(note(&bytes), Some(longest));
        assert!(Picture::decode(&bytes, Path::new("a")).is_ok());
        let longer = "x".repeat(most + 1);
        let error = noise(5, 3).encode_noted(Format::Jpeg, &longer).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
        for format in [Format::Png, Format::WebP] {
            let bytes = noise(5, 3).encode_noted(format, &longer).unwrap();
            assert_eq!(note(&bytes).map(|text| text.len()), Some(most + 1));
        }
        let endless = format!("ASCII\0\0\0icd {}", "x".repeat(MAX_TEXT + 1));
        assert_eq!(of_comment(endless.as_bytes()), None);
    }
}
