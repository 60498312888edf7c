//! EXIF: the orientation of a picture, which XMP may state, too, and the user's comment.

use image::metadata::Orientation;

/// The tag of the orientation.
const ORIENTATION: u16 = 0x112;
/// The tag of the place of the Exif directory.
const EXIF_DIRECTORY: u16 = 0x8769;
/// The tag of the version of EXIF.
const VERSION: u16 = 0x9000;
/// The tag of the user's comment.
const USER_COMMENT: u16 = 0x9286;
/// What may stand before the TIFF header of EXIF.
const PREFIX: &[u8] = b"Exif\0\0";
/// Bytes of an entry: tag, type, count, value.
const ENTRY: usize = 12;
/// Types of values.
mod kind {
    pub(super) const BYTE: u16 = 1;
    pub(super) const ASCII: u16 = 2;
    pub(super) const SHORT: u16 = 3;
    pub(super) const LONG: u16 = 4;
    pub(super) const UNDEFINED: u16 = 7;
}

/// The orientation that EXIF states.
///
/// It is a SHORT or LONG (or BYTE) of the first directory, in either byte order; other
/// directories are not followed. A value without a meaning turns nothing.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let tiff = Tiff::of(exif)?;
    let mut of_tag = tiff.entries(tiff.first()?, ORIENTATION)?;
    let value = of_tag.find_map(|entry| match entry.kind {
        kind::BYTE => Some(u32::from(entry.value[0])),
        kind::SHORT => tiff.order.short(&entry.value).map(u32::from),
        kind::LONG => tiff.order.long(&entry.value),
        _ => None,
    });
    Some(meant(value?))
}

/// The user's comment in EXIF, which begins with the name of its encoding in eight bytes.
pub(super) fn user_comment(exif: &[u8]) -> Option<&[u8]> {
    let tiff = Tiff::of(exif)?;
    let place = tiff.entries(tiff.first()?, EXIF_DIRECTORY)?.next()?.value;
    let directory = tiff.order.long(&place)? as usize;
    let mut comments = tiff.entries(directory, USER_COMMENT)?;
    let is_bytes = |entry: &Entry| [kind::BYTE, kind::ASCII, kind::UNDEFINED].contains(&entry.kind);
    let comment = comments.find(is_bytes)?;
    let start = tiff.order.long(&comment.value)? as usize;
    tiff.bytes.get(start..)?.get(..comment.count as usize)
}

/// EXIF that holds a user's comment alone, without a prefix.
pub(super) fn with_user_comment(comment: &[u8]) -> Vec<u8> {
    let entry = |tag: u16, kind: u16, count: usize, value: [u8; 4]| {
        let (tag, kind) = (tag.to_be_bytes(), kind.to_be_bytes());
        [&tag[..], &kind, &(count as u32).to_be_bytes(), &value].concat()
    };
    let directory = |entries: &[Vec<u8>]| {
        let count = (entries.len() as u16).to_be_bytes();
        [&count[..], &entries.concat(), &[0; 4]].concat()
    };
    let size = |entries: usize| 2 + entries * ENTRY + 4;
    let (second, behind) = (8 + size(1), 8 + size(1) + size(2));
    let place = |at: usize| (at as u32).to_be_bytes();
    let first = directory(&[entry(EXIF_DIRECTORY, kind::LONG, 1, place(second))]);
    let second = directory(&[
        entry(VERSION, kind::UNDEFINED, 4, *b"0232"),
        entry(USER_COMMENT, kind::UNDEFINED, comment.len(), place(behind)),
    ]);
    [b"MM\0*\0\0\0\x08", &first[..], &second, comment].concat()
}

/// The orientation that XMP states, as an attribute or an element.
pub(super) fn orientation_in_xmp(xmp: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let named = xmp
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, part)| *part == NAME);
    let mut values = named.filter_map(|(at, _)| match &xmp[at + NAME.len()..] {
        [b'=', b'"' | b'\'', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => {
            Some(digit - b'0')
        }
        _ => None,
    });
    Some(meant(values.next()?.into()))
}

/// What a number means.
fn meant(value: u32) -> Orientation {
    let known = u8::try_from(value).ok().and_then(Orientation::from_exif);
    known.unwrap_or(Orientation::NoTransforms)
}

/// EXIF without its prefix: a TIFF file.
struct Tiff<'a> {
    bytes: &'a [u8],
    order: Order,
}

/// An entry of a directory.
struct Entry {
    kind: u16,
    count: u32,
    /// The value, or where it is.
    value: [u8; 4],
}

impl<'a> Tiff<'a> {
    fn of(exif: &'a [u8]) -> Option<Self> {
        let bytes = exif.strip_prefix(PREFIX).unwrap_or(exif);
        let order = match bytes.get(..4)? {
            b"II*\0" => Order::Little,
            b"MM\0*" => Order::Big,
            _ => return None,
        };
        Some(Self { bytes, order })
    }

    /// Where the first directory is.
    fn first(&self) -> Option<usize> {
        self.order.long(self.bytes.get(4..)?).map(|at| at as usize)
    }

    /// The entries of a tag in the directory at this place.
    fn entries(&self, directory: usize, tag: u16) -> Option<impl Iterator<Item = Entry>> {
        let (directory, order) = (self.bytes.get(directory..)?, self.order);
        let count = usize::from(order.short(directory)?);
        let (entries, _) = directory.get(2..)?.as_chunks::<ENTRY>();
        let of_tag = entries.iter().take(count);
        let of_tag = of_tag.filter(move |entry| order.short(&entry[..]) == Some(tag));
        Some(of_tag.filter_map(move |entry| {
            Some(Entry {
                kind: order.short(&entry[2..])?,
                count: order.long(&entry[4..])?,
                value: *entry.last_chunk()?,
            })
        }))
    }
}

/// The order of bytes in numbers.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn short(self, bytes: &[u8]) -> Option<u16> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        })
    }

    fn long(self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF of one entry: the orientation, of this type, with these four bytes of a value.
    fn exif(head: &[u8], kind: [u8; 2], value: [u8; 4]) -> Vec<u8> {
        let is_big = head.starts_with(b"M");
        let order = |mut bytes: Vec<u8>| {
            if !is_big {
                bytes.reverse();
            }
            bytes
        };
        let numbers = [
            order(vec![0, 0, 0, 8]),
            order(vec![0, 1]),
            order(vec![1, 0x12]),
            order(kind.to_vec()),
            order(vec![0, 0, 0, 1]),
        ];
        [head, &numbers.concat(), &value, &[0; 4]].concat()
    }

    #[test]
    fn both_byte_orders_and_types_are_read_with_and_without_a_prefix() {
        for bytes in [
            exif(b"MM\0*", [0, 3], [0, 6, 0, 0]),
            exif(b"II*\0", [0, 3], [6, 0, 0, 0]),
            exif(b"MM\0*", [0, 4], [0, 0, 0, 6]),
            exif(b"II*\0", [0, 4], [6, 0, 0, 0]),
            exif(b"II*\0", [0, 1], [6, 0, 0, 0]),
        ] {
            assert_eq!(orientation(&bytes), Some(Orientation::Rotate90));
            let prefixed = [PREFIX, &bytes].concat();
            assert_eq!(orientation(&prefixed), Some(Orientation::Rotate90));
            for length in 0..bytes.len() - 4 {
                let _ = orientation(&bytes[..length]);
            }
        }
    }

    #[test]
    fn a_comment_is_read_back_and_turns_nothing() {
        let comment = b"ASCII\0\0\0a comment";
        let bytes = with_user_comment(comment);
        assert_eq!(user_comment(&bytes), Some(&comment[..]));
        assert_eq!(orientation(&bytes), None);
        let prefixed = [PREFIX, &bytes].concat();
        assert_eq!(user_comment(&prefixed), Some(&comment[..]));
        for length in 0..bytes.len() {
            assert_eq!(user_comment(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn comments_are_read_in_both_byte_orders() {
        // Two directories behind each other, the comment at the end.
        let little = b"II*\0\x08\0\0\0\
            \x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\
            \x01\0\x86\x92\x07\0\x09\0\0\0\x2c\0\0\0\0\0\0\0\
            ASCII\0\0\0x";
        assert_eq!(user_comment(little), Some(&b"ASCII\0\0\0x"[..]));
        assert_eq!(user_comment(&exif(b"MM\0*", [0, 3], [0, 6, 0, 0])), None);
    }

    #[test]
    fn a_value_without_a_meaning_turns_nothing() {
        let none = Some(Orientation::NoTransforms);
        for value in [0, 9] {
            assert_eq!(orientation(&exif(b"II*\0", [0, 3], [value, 0, 0, 0])), none);
        }
        assert_eq!(orientation(&exif(b"II*\0", [0, 4], [0, 1, 0, 0])), none);
    }

    #[test]
    fn what_is_no_orientation_is_none() {
        assert_eq!(orientation(&exif(b"II*\0", [0, 2], [6, 0, 0, 0])), None);
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(orientation(b""), None);
    }

    #[test]
    fn xmp_states_it_as_an_attribute_or_an_element() {
        let found = |xmp: &str| orientation_in_xmp(xmp.as_bytes());
        let expected = Some(Orientation::Rotate180);
        assert_eq!(
            found("<d tiff:Make=\"x\" tiff:Orientation=\"3\"/>"),
            expected
        );
        assert_eq!(found("<tiff:Orientation>3</tiff:Orientation>"), expected);
        assert_eq!(found("tiff:Orientation"), None);
        assert_eq!(found("<d exif:Orientation=\"3\"/>"), None);
    }
}
