//! Kinds of picture files, known by their first bytes.

use std::path::Path;

use image::ImageFormat;

use super::{Format, Reason};
use crate::io::KnownFile;

/// The kinds that are read.
pub(super) const READ: &str = "PNG, JPEG, WebP, GIF or BMP";

/// Beginnings of other kinds at a place of the file, their names, and what converts them.
const OTHERS: &[(usize, &[u8], &str, &str)] = &[
    (4, b"ftypheic", HEIC, MAGICK),
    (4, b"ftypheix", HEIC, MAGICK),
    (4, b"ftyphevc", HEIC, MAGICK),
    (4, b"ftyphevx", HEIC, MAGICK),
    (4, b"ftypheim", HEIC, MAGICK),
    (4, b"ftypheis", HEIC, MAGICK),
    (4, b"ftypmif1", HEIC, MAGICK),
    (4, b"ftypmsf1", HEIC, MAGICK),
    (4, b"ftypavif", "an AVIF picture", MAGICK),
    (4, b"ftypavis", "an AVIF picture", MAGICK),
    (4, b"ftypcrx ", RAW, DEVELOP),
    (4, b"ftyp", VIDEO, FFMPEG),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", MAGICK),
    (0, b"\xff\x0a", "a JPEG XL picture", MAGICK),
    (
        0,
        b"\0\0\0\x0cjP  \r\n\x87\n",
        "a JPEG 2000 picture",
        MAGICK,
    ),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture", MAGICK),
    (8, b"CR\x02", RAW, DEVELOP),
    (0, b"FUJIFILMCCD-RAW", RAW, DEVELOP),
    (0, b"IIRO", RAW, DEVELOP),
    (0, b"IIRS", RAW, DEVELOP),
    (0, b"MMOR", RAW, DEVELOP),
    (0, b"IIU\0", RAW, DEVELOP),
    (0, b"FOVb", RAW, DEVELOP),
    (0, b"II*\0", TIFF, MAGICK),
    (0, b"MM\0*", TIFF, MAGICK),
    (0, b"II+\0", TIFF, MAGICK),
    (0, b"MM\0+", TIFF, MAGICK),
    (0, b"8BPS", "a Photoshop document", MAGICK),
    (0, b"gimp xcf", "a GIMP document", MAGICK),
    (0, b"%PDF-", "a PDF", "pdftoppm -png"),
    (0, b"%!PS", "a PostScript document", MAGICK),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document", MAGICK),
    (0, b"\0\0\x01\0", "an icon (ICO)", MAGICK),
    (0, b"\0\0\x02\0", "a cursor (CUR)", MAGICK),
    (0, b"v/1\x01", "an OpenEXR picture", MAGICK),
    (0, b"#?RADIANCE", "a Radiance picture", MAGICK),
    (0, b"#?RGBE", "a Radiance picture", MAGICK),
    (0, b"qoif", "a QOI picture", MAGICK),
    (0, b"DDS ", "a DDS texture", MAGICK),
    (0, b"farbfeld", "a farbfeld picture", MAGICK),
    (0, b"SIMPLE  =", "a FITS picture", MAGICK),
    (0, b"AT&TFORM", "a DjVu document", "ddjvu"),
    (0, b"\x8aMNG", "an MNG animation", MAGICK),
    (0, b"\x8bJNG", "a JNG picture", MAGICK),
    (0, b"\x1aE\xdf\xa3", VIDEO, FFMPEG),
    (8, b"AVI ", VIDEO, FFMPEG),
    (0, b"\0\0\x01\xba", VIDEO, FFMPEG),
    (0, b"\0\0\x01\xb3", VIDEO, FFMPEG),
    (0, b"OggS", VIDEO, FFMPEG),
    (0, b"FLV\x01", VIDEO, FFMPEG),
    (0, b"P1", PNM, MAGICK),
    (0, b"P2", PNM, MAGICK),
    (0, b"P3", PNM, MAGICK),
    (0, b"P4", PNM, MAGICK),
    (0, b"P5", PNM, MAGICK),
    (0, b"P6", PNM, MAGICK),
    (0, b"P7\n", PNM, MAGICK),
    (0, b"Pf\n", PNM, MAGICK),
    (0, b"PF\n", PNM, MAGICK),
];

const HEIC: &str = "a HEIC picture";
const RAW: &str = "a camera's raw picture";
const TIFF: &str = "a TIFF or a camera's raw picture";
const PNM: &str = "a netpbm picture (PBM, PGM, PPM)";
const VIDEO: &str = "a video";
const MAGICK: &str = "ImageMagick's `magick`";
const DEVELOP: &str = "a raw developer such as darktable";
const FFMPEG: &str = "`ffmpeg -frames:v 1`";

/// How far the root element of an SVG may be from its beginning, in bytes.
const PREAMBLE: usize = 4096;

/// The kind of a file that is read, known by its content.
pub(super) fn of(bytes: &[u8], name: &Path) -> Result<ImageFormat, Reason> {
    match image::guess_format(bytes) {
        _ if bytes.is_empty() => Err("the file is empty".into()),
        Ok(format) if is_read(format) && !is_other_riff(bytes) => Ok(format),
        _ => Err(described(bytes, name)),
    }
}

fn is_read(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    matches!(format, Bmp | Gif | Jpeg | Png | WebP)
}

/// Videos and sounds share their first bytes with WebP.
fn is_other_riff(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) != Some(b"WEBP")
}

/// What a file is that cannot be read, and what to do.
fn described(bytes: &[u8], name: &Path) -> Reason {
    let begins = |(at, magic, ..): &&(usize, &[u8], &str, &str)| {
        bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((.., kind, tool)) = OTHERS.iter().find(begins) {
        return to_convert(kind, tool);
    }
    let head = &bytes[..bytes.len().min(PREAMBLE)];
    let text = String::from_utf8_lossy(head).to_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with('<') && text.contains("<svg") {
        return to_convert("an SVG drawing", "`rsvg-convert`");
    }
    if let Some(KnownFile { name, remedy, .. }) = KnownFile::of(bytes) {
        return format!("this is {name}: {remedy}").into();
    }
    let despite = if Format::of(name).is_ok() {
        ", despite its name"
    } else {
        ""
    };
    format!("this is not a {READ} picture{despite}").into()
}

fn to_convert(kind: &str, tool: &str) -> Reason {
    format!(
        "this is {kind}, which cannot be read: convert it to PNG or JPEG, for example with {tool}"
    )
    .into()
}
