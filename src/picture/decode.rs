//! Reading pictures, whose kind is known by their content.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Cursor, Read},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::{CHANNELS, Picture, Reason, Size, jpeg, kind, metadata::Metadata, png};
use crate::error::{Error, Result};

/// Maximum side in pixels.
pub(super) const MAX_SIDE: u32 = 16384;
/// Maximum size of a decoded picture: `MAX_SIDE` squared, four bytes per pixel.
pub(super) const MAX_BYTES: usize = 1 << 30;

impl Picture {
    /// Reads a PNG, JPEG, WebP, GIF or BMP file, whatever its extension, as
    /// [`decode`](Self::decode) does.
    pub fn read(path: &Path) -> Result<Self> {
        let fault = |source| Error::io(path, source);
        let bytes = bytes_of(File::open(path).map_err(fault)?).map_err(fault)?;
        Self::decode(&bytes, path)
    }

    /// Decodes a picture, of an animation the first one; `name` is used in error messages.
    ///
    /// Grey, CMYK and 16-bit pixels become 8-bit RGB, transparent ones are composited
    /// over white, and the orientation in EXIF or XMP is applied. An ICC colour profile for
    /// RGB is kept. Sides are at most 16384 pixels, and decoded pixels 1 GiB, which is known
    /// before they are decoded.
    pub fn decode(bytes: &[u8], name: &Path) -> Result<Self> {
        let (image, metadata) = decoded(bytes, name)?;
        Self::flattened(image, metadata, name)
    }

    /// The 8-bit RGB of decoded pixels, composited over white.
    pub(super) fn flattened(image: DynamicImage, metadata: Metadata, name: &Path) -> Result<Self> {
        let size = Size::new(image.width() as usize, image.height() as usize);
        let picture = Self::new(size, over_white(image));
        let picture = picture.map_err(|error| Error::picture(name, error))?;
        let profile = metadata.profile();
        Ok(Self { profile, ..picture })
    }
}

/// The bytes of an encoded picture, from a file or a stream, which need not have an end.
pub fn bytes_of(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() <= MAX_BYTES {
        true => Ok(bytes),
        false => Err(io::Error::other("a picture has at most 1 GiB")),
    }
}

/// The upright pixels of a picture, and what its file says of them.
pub(super) fn decoded(bytes: &[u8], name: &Path) -> Result<(DynamicImage, Metadata)> {
    let fault = |reason: Reason| Error::picture(name, reason);
    let format = kind::of(bytes, name).map_err(fault)?;
    let metadata = Metadata::of(bytes, format);
    let mut image = pixels(bytes, format).map_err(fault)?;
    image.apply_orientation(metadata.orientation());
    Ok((image, metadata))
}

fn pixels(bytes: &[u8], format: ImageFormat) -> Result<DynamicImage, Reason> {
    let checked = match format {
        ImageFormat::Png => return png::pixels(bytes),
        ImageFormat::Jpeg => jpeg::pixels(bytes)?.into(),
        ImageFormat::WebP => webp_pixels(bytes),
        _ => Cow::Borrowed(bytes),
    };
    within_limits(&checked, format).map_err(|error| reason(&error, format))
}

/// A WebP for the decoder, which would ask for metadata that the head promises, and need not.
fn webp_pixels(bytes: &[u8]) -> Cow<'_, [u8]> {
    /// The flags of a colour profile, EXIF and XMP, and where they are.
    const METADATA: u8 = 0b10_1100;
    const FLAGS: usize = 20;
    let mut bytes = Cow::Borrowed(bytes);
    if bytes.get(12..16) == Some(b"VP8X") && bytes.len() > FLAGS {
        bytes.to_mut()[FLAGS] &= !METADATA;
    }
    bytes
}

fn within_limits(bytes: &[u8], format: ImageFormat) -> Result<DynamicImage, ImageError> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES as u64);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    DynamicImage::from_decoder(decoder)
}

fn reason(error: &ImageError, format: ImageFormat) -> Reason {
    let told = error.to_string();
    let told = told.trim_end();
    match (error, format) {
        (ImageError::Limits(_), _) => too_large(),
        // It is whole.
        (_, ImageFormat::Jpeg) => {
            let remedy = "save it again as PNG or as a usual JPEG";
            format!("this kind of JPEG cannot be read ({told}): {remedy}").into()
        }
        _ => damaged(told),
    }
}

/// A picture that its decoder rejects, in its words.
pub(super) fn damaged(told: &str) -> Reason {
    format!("the file is damaged or cut off ({told})").into()
}

/// A picture beyond the limits.
pub(super) fn too_large() -> Reason {
    format!("the picture is too large: at most {MAX_SIDE} pixels per side and 1 GiB").into()
}

/// The bytes of `image` as 8-bit RGB, composited over white in place: the largest pictures
/// would not fit twice.
fn over_white(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let mut values = image.into_rgba8().into_raw();
    let count = values.len() / 4;
    for at in 0..count {
        let alpha = values[4 * at + 3];
        for channel in 0..CHANNELS {
            values[CHANNELS * at + channel] = blend(values[4 * at + channel], alpha);
        }
    }
    values.truncate(CHANNELS * count);
    values.shrink_to_fit();
    values
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
            assert!(
                told.contains("not a PNG, JPEG, WebP, GIF or BMP picture"),
                "{told}"
            );
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
        assert!(failure(b"hello").contains("photo.png: this is not a PNG, JPEG, WebP"));
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
    fn a_png_is_whole_without_its_end_and_damaged_with_a_wrong_checksum() {
        let bytes = noise(40, 30).encode(Format::Png).unwrap();
        let end = bytes.len() - 12;
        for whole in [
            &bytes[..end],
            &bytes[..end + 5],
            &[&bytes, &b"more"[..]].concat(),
        ] {
            assert_eq!(decoded(whole).unwrap(), noise(40, 30));
        }
        let mut damaged = bytes.clone();
        damaged[end - 1] ^= 1; // the last byte of the checksum of the pixels
        assert!(failure(&damaged).contains("checksum of a chunk IDAT"));
        // That of the zlib stream, under a right one of its chunk: Pillow refuses it, too.
        let mut damaged = bytes.clone();
        damaged[end - 5] ^= 1;
        let start = damaged.windows(4).position(|kind| kind == b"IDAT").unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(&damaged[start..end - 4]);
        damaged[end - 4..end].copy_from_slice(&crc.sum().to_be_bytes());
        assert!(failure(&damaged).contains("WrongChecksum"));
        let mut odd = bytes.clone();
        let chunk = [0, 0, 0, 0, b'C', b'g', b'B', b'I', 0, 0, 0, 0];
        odd.splice(8..8, chunk);
        assert!(failure(&odd).contains("for iPhones alone"));
    }

    #[test]
    fn gif_and_bmp_are_read_and_cut_off_ones_are_not() {
        let image = ImageBuffer::from_fn(8, 6, |x, y| Rgb([(x * 30) as u8, (y * 40) as u8, 9]));
        for format in [ImageFormat::Gif, ImageFormat::Bmp] {
            let mut out = Cursor::new(Vec::new());
            image.write_to(&mut out, format).unwrap();
            let bytes = out.into_inner();
            assert_eq!(
                decoded(&bytes).unwrap().pixels(),
                image.as_raw(),
                "{format:?}"
            );
            let error = failure(&bytes[..bytes.len() / 2]);
            assert!(error.contains("cut off"), "{error}");
        }
    }

    #[test]
    fn other_kinds_are_named_with_what_to_do() {
        for (bytes, told) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "a HEIC picture"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF picture"),
            (b"\0\0\0\x20ftypisom\0\0\0\0", "a video"),
            (b"\xff\x0a\x80", "a JPEG XL picture"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
            (b"8BPS\0\x01", "a Photoshop document"),
            (b"%PDF-1.7", "a PDF"),
            (
                b"\xef\xbb\xbf <?xml version=\"1.0\"?>\n<svg width=\"9\">",
                "an SVG drawing",
            ),
            (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw picture"),
            (b"MM\0*\0\0\0\x08", "a TIFF"),
            (b"RIFF\0\0\0\0AVI LIST", "a video"),
            (b"P6\n1 1\n255\n", "a netpbm picture"),
        ] {
            let error = failure(bytes);
            let is_named = error.contains(told) && error.contains("convert it to PNG or JPEG");
            assert!(is_named, "{error}");
        }
        assert!(failure(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
        assert!(failure(b"<!DOCTYPE html><html>").contains("a web page"));
        assert!(failure(b"RIFF\x04\0\0\0WAVEfmt ").contains("not a PNG"));
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
