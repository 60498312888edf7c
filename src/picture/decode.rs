//! Reading PNG, JPEG and WebP pictures, detected from their content.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::{Format, Picture, Size};
use crate::error::{Error, Result};

/// Maximum side in pixels.
const MAX_SIDE: u32 = 16384;
/// Maximum size of a decoded picture: `MAX_SIDE` squared, four bytes per pixel.
const MAX_BYTES: u64 = 1 << 30;

impl Picture {
    /// Reads a PNG, JPEG or WebP file, whatever its extension, as [`decode`](Self::decode)
    /// does.
    pub fn read(path: &Path) -> Result<Self> {
        let fault = |source| Error::io(path, source);
        let bytes = bytes_of(File::open(path).map_err(fault)?).map_err(fault)?;
        Self::decode(&bytes, path)
    }

    /// Decodes a picture; `name` is used in error messages.
    ///
    /// Grey, CMYK and 16-bit pixels become 8-bit RGB, transparent ones are composited
    /// over white, and the EXIF orientation is applied. An ICC colour profile for RGB is
    /// kept. Sides are at most 16384 pixels.
    pub fn decode(bytes: &[u8], name: &Path) -> Result<Self> {
        let format = format_of(bytes, name).map_err(|reason| Error::picture(name, reason))?;
        let (image, profile) =
            upright(bytes, format).map_err(|error| Error::picture(name, reason(&error)))?;
        if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
            return Err(Error::picture(name, "the file is cut off"));
        }
        let size = Size::new(image.width() as usize, image.height() as usize);
        let picture = Self::new(size, over_white(image));
        let picture = picture.map_err(|error| Error::picture(name, error))?;
        // Profiles of grey and CMYK pictures do not fit the converted pixels (ICC.1, 7.2.6).
        let profile = profile.filter(|profile| profile.get(16..20) == Some(b"RGB "));
        let profile = profile.map(Into::into);
        Ok(Self { profile, ..picture })
    }
}

/// The bytes of an encoded picture, from a file or a stream, which need not have an end.
pub fn bytes_of(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= MAX_BYTES {
        true => Ok(bytes),
        false => Err(io::Error::other("a picture has at most 1 GiB")),
    }
}

fn format_of(bytes: &[u8], name: &Path) -> Result<ImageFormat, &'static str> {
    if bytes.is_empty() {
        return Err("the file is empty");
    }
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        _ if Format::of(name).is_ok() => {
            Err("this is not a PNG, JPEG or WebP picture, despite its name")
        }
        _ => Err("this is not a PNG, JPEG or WebP picture"),
    }
}

/// Whether a JPEG has an end marker: the decoder fills in missing pixels.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    // The marker cannot occur within entropy-coded data.
    jpeg_scans(bytes)
        .windows(2)
        .any(|pair| pair == [0xff, 0xd9])
}

/// The scans of a JPEG, without the segments before them, which may contain thumbnails
/// with end markers.
fn jpeg_scans(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        rest = match rest {
            [0xff, 0xda, scans @ ..] => return scans,
            [0xff, 0x01..=0xfe, high, low, ..] => {
                let length = u16::from_be_bytes([*high, *low]) as usize;
                rest.get(2 + length..).unwrap_or_default()
            }
            [_, rest @ ..] => rest,
            [] => return rest,
        };
    }
}

/// The decoded picture with its EXIF orientation applied, and its colour profile.
fn upright(
    bytes: &[u8],
    format: ImageFormat,
) -> Result<(DynamicImage, Option<Vec<u8>>), ImageError> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    // Broken profiles are ignored.
    let profile = decoder.icc_profile().unwrap_or_default();
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok((image, profile))
}

fn reason(error: &ImageError) -> String {
    match error {
        ImageError::Limits(_) => {
            format!("the picture is too large: at most {MAX_SIDE} pixels per side and 1 GiB")
        }
        error => {
            let error = error.to_string();
            format!("the file is damaged or cut off ({})", error.trim_end())
        }
    }
}

/// The bytes of `image` as 8-bit RGB, composited over white.
fn over_white(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let rgba = image.into_rgba8();
    let blended = rgba.pixels().flat_map(|pixel| {
        let [colour @ .., alpha] = pixel.0;
        colour.map(|value| blend(value, alpha))
    });
    blended.collect()
}

/// A value composited over white, rounded.
fn blend(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{DynamicImage, ImageBuffer, ImageEncoder, Luma, Rgb, Rgba, codecs::jpeg};

    use super::*;
    use crate::picture::{Format, tests::noise};

    fn decoded(bytes: &[u8]) -> Result<Picture> {
        Picture::decode(bytes, Path::new("photo.png"))
    }

    /// The error of decoding `bytes`.
    fn failure(bytes: &[u8]) -> String {
        decoded(bytes).unwrap_err().to_string()
    }

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.into().write_to(&mut out, ImageFormat::Png).unwrap();
        out.into_inner()
    }

    /// A one-pixel picture of these values.
    macro_rules! pixel {
        ($pixel:expr) => {
            png(ImageBuffer::from_pixel(1, 1, $pixel))
        };
    }

    #[test]
    fn only_a_name_of_a_picture_is_contradicted() {
        for (name, contradicted) in [("in.png", true), ("in.WEBP", true), ("stdin", false)] {
            let told = Picture::decode(b"hello", Path::new(name)).unwrap_err();
            let told = told.to_string();
            assert!(told.contains("not a PNG, JPEG or WebP picture"), "{told}");
            assert_eq!(told.contains("despite its name"), contradicted, "{told}");
        }
    }

    #[test]
    fn grey_and_deep_pixels_become_8_bit_rgb() {
        let read = |bytes: Vec<u8>| decoded(&bytes).unwrap().pixels().to_vec();
        assert_eq!(read(pixel!(Luma([7_u8]))), [7, 7, 7]);
        assert_eq!(read(pixel!(Luma([257 * 9_u16]))), [9, 9, 9]);
        assert_eq!(read(pixel!(Rgb([0, 257 * 9, u16::MAX]))), [0, 9, 255]);
    }

    #[test]
    fn transparent_pixels_lie_over_white() {
        let read = |bytes: Vec<u8>| decoded(&bytes).unwrap().pixels().to_vec();
        assert_eq!(read(pixel!(Rgba([10, 20, 30, 0_u8]))), [255, 255, 255]);
        assert_eq!(read(pixel!(Rgba([10, 20, 30, 255_u8]))), [10, 20, 30]);
        // round(100 * 51 / 255 + 255 * 204 / 255)
        assert_eq!(read(pixel!(Rgba([100, 0, 255, 51_u8]))), [224, 204, 255]);
    }

    #[test]
    fn content_counts_and_not_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        fs::write(&path, noise(3, 2).encode(Format::Png).unwrap()).unwrap();
        assert_eq!(Picture::read(&path).unwrap(), noise(3, 2));
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_name() {
        let error = Picture::read(Path::new("no/such.png")).unwrap_err();
        assert!(error.to_string().starts_with("no/such.png: "), "{error}");
    }

    #[test]
    fn other_files_are_errors_with_their_names() {
        assert!(failure(b"").contains("photo.png: the file is empty"));
        assert!(failure(b"hello").contains("photo.png: this is not a PNG, JPEG or WebP"));
        assert!(failure(b"GIF89a\x01\0\x01\0").contains("not a PNG, JPEG or WebP"));
    }

    #[test]
    fn a_picture_cut_off_anywhere_is_an_error() {
        for format in [Format::Png, Format::Jpeg, Format::WebP] {
            let bytes = noise(40, 30).encode(format).unwrap();
            assert!(decoded(&bytes).is_ok());
            for part in 1..8 {
                let error = failure(&bytes[..bytes.len() * part / 8]);
                assert!(error.contains("cut off"), "{format} {part}/8: {error}");
            }
        }
    }

    #[test]
    fn a_jpeg_is_whole_with_a_thumbnail_or_with_more_behind() {
        let jump = [0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xd9];
        let scan = [0xff, 0xda, 1, 2, 3];
        let end = [0xff, 0xd9, 4, 5];
        assert!(jpeg_is_whole(&[&jump[..], &scan, &end].concat()));
        assert!(!jpeg_is_whole(&[&jump[..], &scan].concat()));
        assert!(!jpeg_is_whole(&jump));
        assert!(!jpeg_is_whole(&[0xff]));
    }

    #[test]
    fn a_photo_is_set_upright() {
        // TIFF, big endian, one entry: orientation (0x112), a short, 6 = turn right.
        let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut bytes = Vec::new();
        let mut encoder = jpeg::JpegEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        let colour = image::ExtendedColorType::L8;
        encoder.write_image(&[0; 16 * 8], 16, 8, colour).unwrap();
        assert_eq!(decoded(&bytes).unwrap().size(), Size::new(8, 16));
    }

    #[test]
    fn a_huge_picture_is_an_error_before_it_is_decoded() {
        let mut bytes = pixel!(Luma([7_u8]));
        // The width in the header, and the header's checksum:
        // zlib.crc32(b"IHDR" + struct.pack(">IIBBBBB", 16385, 1, 8, 0, 0, 0, 0))
        bytes[16..20].copy_from_slice(&16385_u32.to_be_bytes());
        bytes[29..33].copy_from_slice(&0xec36_82ba_u32.to_be_bytes());
        assert!(failure(&bytes).contains("too large"), "{}", failure(&bytes));
    }
}
