//! A note in a PNG: an international text chunk (iTXt) with the keyword `icd`.

use image::ImageFormat;
use png::{BitDepth, ColorType, Encoder, EncodingError, Info};

use super::{Picture, metadata::Metadata};
use crate::error::{Error, Result};

/// The keyword of the chunk.
pub const KEYWORD: &str = "icd";

impl Picture {
    /// Encodes the picture as PNG with a note of any text.
    pub fn encode_noted(&self, note: &str) -> Result<Vec<u8>> {
        let size = self.size();
        let reason = |error| format!("a {size} picture cannot be written as PNG: {error}");
        self.noted(note)
            .map_err(|error| Error::setting(reason(error)))
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

/// The note in the bytes of a PNG, before or behind its pixels, if it has one of at most 1 MiB.
pub fn note(png: &[u8]) -> Option<String> {
    Metadata::of(png, ImageFormat::Png).note
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::picture::{Format, tests::noise};

    #[test]
    fn a_note_is_read_back_and_changes_no_pixel() {
        for text in ["", "{\"a\":1}", "ein Vogel auf einem Ast: 鳥 🐦\n"] {
            let bytes = noise(5, 3).encode_noted(text).unwrap();
            assert_eq!(note(&bytes).as_deref(), Some(text));
            let back = Picture::decode(&bytes, Path::new("a.png")).unwrap();
            assert_eq!(back, noise(5, 3));
        }
    }

    #[test]
    fn other_files_have_no_note() {
        let plain = noise(5, 3).encode(Format::Png).unwrap();
        let jpeg = noise(5, 3).encode(Format::Jpeg).unwrap();
        for bytes in [&plain[..], &jpeg, b"", b"text", &plain[..20]] {
            assert_eq!(note(bytes), None);
        }
    }
}
