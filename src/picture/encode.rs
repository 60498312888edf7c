//! Writing pictures as PNG, JPEG or WebP.

use std::{fmt, path::Path};

use image::{
    ExtendedColorType, ImageEncoder, ImageError, ImageResult,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
};

use super::Picture;
use crate::{
    error::{Error, Result},
    io::{Existing, write_file},
};

/// JPEG quality, out of 100.
const JPEG_QUALITY: u8 = 95;

/// A format to write pictures in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// PNG, lossless.
    Png,
    /// JPEG at quality 95.
    Jpeg,
    /// WebP, lossless.
    WebP,
}

impl Format {
    /// The format for the extension of `path`: png, jpg, jpeg or webp, in any case.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("png") => Ok(Self::Png),
            Some("jpg" | "jpeg") => Ok(Self::Jpeg),
            Some("webp") => Ok(Self::WebP),
            _ => Err(Error::picture(
                path,
                "a picture to write must be named .png, .jpg, .jpeg or .webp",
            )),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        })
    }
}

impl Picture {
    /// Encodes the picture with its colour profile.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>> {
        self.encode_with(format, None)
    }

    /// Encodes the picture with its colour profile and EXIF, which has to fit into the format.
    pub(super) fn encode_with(&self, format: Format, exif: Option<Vec<u8>>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let jpeg = |out| JpegEncoder::new_with_quality(out, JPEG_QUALITY);
        let encoded = match format {
            Format::Png => self.feed(PngEncoder::new(&mut out), exif),
            Format::Jpeg => self.feed(jpeg(&mut out), exif),
            Format::WebP => self.feed(WebPEncoder::new_lossless(&mut out), exif),
        };
        let size = self.size();
        match encoded {
            Ok(()) => Ok(out),
            Err(error) => Err(Error::setting(format!(
                "a {size} picture cannot be written as {format}: {error}"
            ))),
        }
    }

    /// Writes the picture atomically, in the format of the path's extension; an existing
    /// file is replaced.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = self.encode(Format::of(path)?)?;
        write_file(path, &bytes, Existing::Replace)
    }

    fn feed(&self, mut encoder: impl ImageEncoder, exif: Option<Vec<u8>>) -> ImageResult<()> {
        if let Some(profile) = self.profile() {
            let set = encoder.set_icc_profile(profile.to_vec());
            set.map_err(ImageError::Unsupported)?;
        }
        if let Some(exif) = exif {
            let set = encoder.set_exif_metadata(exif);
            set.map_err(ImageError::Unsupported)?;
        }
        let (width, height) = (self.size().width as u32, self.size().height as u32);
        encoder.write_image(self.pixels(), width, height, ExtendedColorType::Rgb8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Size, tests::noise};

    #[test]
    fn lossless_formats_give_the_picture_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.PNG", "c.webp"] {
            let path = folder.path().join(name);
            noise(9, 7).write(&path).unwrap();
            assert_eq!(Picture::read(&path).unwrap(), noise(9, 7));
        }
    }

    #[test]
    fn jpeg_gives_nearly_the_picture_back() {
        let smooth = noise(2, 2).resized(Size::new(40, 30));
        let bytes = smooth.encode(Format::Jpeg).unwrap();
        let back = Picture::decode(&bytes, Path::new("a.jpg")).unwrap();
        let pairs = back.pixels().iter().zip(smooth.pixels());
        assert!(pairs.map(|(a, b)| a.abs_diff(*b)).max() < Some(12));
    }

    #[test]
    fn every_format_carries_the_colour_profile() {
        let profile = [&[7; 16][..], b"RGB ", &[9; 300]].concat();
        let mut picture = noise(3, 2);
        picture.profile = Some(profile.clone().into());
        for format in [Format::Png, Format::Jpeg, Format::WebP] {
            let noted = picture.encode_noted(format, "a note").unwrap();
            for bytes in [picture.encode(format).unwrap(), noted] {
                let back = Picture::decode(&bytes, Path::new("a")).unwrap();
                assert_eq!(back.profile(), Some(&profile[..]));
            }
        }
    }

    #[test]
    fn another_ending_is_an_error_that_names_the_right_ones() {
        for name in ["a.gif", "a", ".png", "png"] {
            let error = noise(1, 1).write(Path::new(name)).unwrap_err().to_string();
            assert!(error.contains(".png, .jpg, .jpeg or .webp"), "{error}");
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_format_says_no_to_sides_it_cannot_hold() {
        let long = noise(1, 1).resized(Size::new(16_385, 1));
        let error = long.encode(Format::WebP).unwrap_err().to_string();
        assert!(
            error.contains("16385x1 picture cannot be written as WebP"),
            "{error}"
        );
    }
}
