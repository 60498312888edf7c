//! Metadata in every chunk and segment.

use std::{io::Write, path::Path};

use flate2::{Compression, Crc, write::ZlibEncoder};

use super::*;
use crate::picture::{Format, Picture, Size, note::note, tests::noise};

/// EXIF of one entry: turn right.
const TURNED: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
const TURNED_XMP: &[u8] = b"<x:xmpmeta><d tiff:Orientation=\"6\"/></x:xmpmeta>";
const PROFILE: &[u8] = &[b'7'; 16];

fn profile() -> Vec<u8> {
    [PROFILE, b"RGB ", &[9; 300]].concat()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Where a chunk is put.
#[derive(Clone, Copy, Debug)]
enum Place {
    Before,
    Behind,
}

/// A PNG of 5x3 with one more chunk.
fn png(kind: [u8; 4], data: &[u8], place: Place) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(&kind);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    let chunk = [&length, &kind[..], data, &crc.sum().to_be_bytes()].concat();
    let mut bytes = noise(5, 3).encode(Format::Png).unwrap();
    let beside: &[u8] = match place {
        Place::Before => b"IDAT",
        Place::Behind => b"IEND",
    };
    let at = bytes.windows(4).position(|part| part == beside).unwrap() - 4;
    bytes.splice(at..at, chunk);
    bytes
}

/// A WebP of 5x3 with one more chunk behind its pixels.
fn webp(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let plain = noise(5, 3).encode(Format::WebP).unwrap();
    let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    let flags = [0x2c, 0, 0, 0, 4, 0, 0, 2, 0, 0];
    let mut body = [b"WEBPVP8X", &length(&flags)[..], &flags, &plain[12..]].concat();
    body.extend([&kind[..], &length(data)[..], data].concat());
    if data.len() % 2 == 1 {
        body.push(0);
    }
    [b"RIFF", &length(&body)[..], &body].concat()
}

/// A JPEG of 5x3 with one more segment.
fn jpeg(marker: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = noise(5, 3).encode(Format::Jpeg).unwrap();
    let length = (content.len() as u16 + 2).to_be_bytes();
    let segment = [&[0xff, marker], &length[..], content].concat();
    bytes.splice(2..2, segment);
    bytes
}

fn size(bytes: &[u8]) -> Size {
    Picture::decode(bytes, Path::new("in")).unwrap().size()
}

#[test]
fn a_png_is_set_upright_by_every_spelling_before_and_behind_its_pixels() {
    let hex = |bytes: &[u8]| {
        let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let digits = digits.concat();
        format!(
            "\nexif\n{:8}\n{}\n{}\n",
            bytes.len(),
            &digits[..20],
            &digits[20..]
        )
    };
    let prefixed = [b"Exif\0\0", TURNED].concat();
    let text = |keyword: &str, text: &[u8]| [keyword.as_bytes(), b"\0", text].concat();
    let packed = |text: &[u8]| [&[0], &deflated(text)[..]].concat();
    for place in [Place::Before, Place::Behind] {
        for (kind, data) in [
            (b"eXIf", TURNED.to_vec()),
            (b"eXIf", prefixed.clone()),
            (
                b"tEXt",
                text("Raw profile type exif", hex(&prefixed).as_bytes()),
            ),
            (
                b"zTXt",
                text("Raw profile type APP1", &packed(hex(&prefixed).as_bytes())),
            ),
            (
                b"zTXt",
                text("Raw profile type exif", &packed(hex(TURNED).as_bytes())),
            ),
            (
                b"iTXt",
                text("XML:com.adobe.xmp", &[b"\0\0\0\0", TURNED_XMP].concat()),
            ),
        ] {
            let found = size(&png(*kind, &data, place));
            assert_eq!(found, Size::new(3, 5), "{} {place:?}", kind.escape_ascii());
        }
    }
    let mut damaged = png(*b"eXIf", TURNED, Place::Before);
    let at = damaged.windows(4).position(|part| part == b"eXIf").unwrap();
    damaged[at + 4 + 19] = 3; // the orientation, against the checksum
    assert_eq!(size(&damaged), Size::new(5, 3));
}

#[test]
fn webp_and_jpeg_are_set_upright_by_exif_and_xmp() {
    let prefixed = [b"Exif\0\0", TURNED].concat();
    let xmp = [b"http://ns.adobe.com/xap/1.0/\0", TURNED_XMP].concat();
    for bytes in [
        webp(*b"EXIF", TURNED),
        webp(*b"EXIF", &prefixed),
        webp(*b"XMP ", TURNED_XMP),
        jpeg(0xe1, &prefixed),
        jpeg(0xe1, &xmp),
    ] {
        assert_eq!(size(&bytes), Size::new(3, 5));
    }
    assert_eq!(
        size(&webp(*b"EXIF", b"II*\0\x08\0\0\0\xff\xff")),
        Size::new(5, 3)
    );
}

#[test]
fn exif_goes_before_xmp() {
    let mut both = png(*b"eXIf", TURNED, Place::Behind);
    let other = png(
        *b"iTXt",
        b"XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation=\"1\"",
        Place::Before,
    );
    let chunk = other.windows(4).position(|part| part == b"iTXt").unwrap() - 4;
    let end = other.windows(4).position(|part| part == b"IDAT").unwrap() - 4;
    both.splice(33..33, other[chunk..end].iter().copied());
    assert_eq!(size(&both), Size::new(3, 5));
}

#[test]
fn profiles_are_read_from_chunks_and_parts_in_any_order() {
    let named = [&b"name\0\0"[..], &deflated(&profile())].concat();
    let half = profile().len() / 2;
    let part = |number: u8, part: &[u8]| [b"ICC_PROFILE\0", &[number, 2][..], part].concat();
    let mut parts = jpeg(0xe2, &part(1, &profile()[..half]));
    let second = part(2, &profile()[half..]);
    let segment = [&[0xff, 0xe2, 0, second.len() as u8 + 2], &second[..]].concat();
    parts.splice(2..2, segment);
    for bytes in [
        png(*b"iCCP", &named, Place::Before),
        webp(*b"ICCP", &profile()),
        parts,
    ] {
        let picture = Picture::decode(&bytes, Path::new("in")).unwrap();
        assert_eq!(picture.profile(), Some(&profile()[..]));
    }
    let missing = jpeg(0xe2, &part(2, &profile()));
    assert_eq!(
        Picture::decode(&missing, Path::new("in"))
            .unwrap()
            .profile(),
        None
    );
}

#[test]
fn a_note_is_found_behind_the_pixels_and_too_long_ones_are_not_inflated() {
    let packed = |length: usize| [&b"icd\0\x01\0\0\0"[..], &deflated(&vec![b'x'; length])].concat();
    let found = |data: &[u8], place| note(&png(*b"iTXt", data, place)).map(|text| text.len());
    assert_eq!(found(&packed(9), Place::Behind), Some(9));
    assert_eq!(found(&packed(MAX_TEXT), Place::Before), Some(MAX_TEXT));
    assert_eq!(found(&packed(MAX_TEXT + 1), Place::Before), None);
    let bomb = [&b"name\0\0"[..], &deflated(&vec![0; MAX_PROFILE + 1])].concat();
    let picture = Picture::decode(&png(*b"iCCP", &bomb, Place::Before), Path::new("in"));
    assert_eq!(picture.unwrap().profile(), None);
}
