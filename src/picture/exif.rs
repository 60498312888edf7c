//! The orientation of a picture in EXIF and XMP.

use image::metadata::Orientation;

/// The tag of the orientation.
const ORIENTATION: u16 = 0x112;
/// What may stand before the TIFF header of EXIF.
const PREFIX: &[u8] = b"Exif\0\0";
/// Bytes of an entry: tag, type, count, value.
const ENTRY: usize = 12;

/// The orientation that EXIF states.
///
/// It is a SHORT or LONG (or BYTE) of the first directory, in either byte order; other
/// directories are not followed. A value without a meaning turns nothing.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let tiff = exif.strip_prefix(PREFIX).unwrap_or(exif);
    let order = match tiff.get(..4)? {
        b"II*\0" => Order::Little,
        b"MM\0*" => Order::Big,
        _ => return None,
    };
    let directory = tiff.get(order.long(tiff.get(4..)?)? as usize..)?;
    let count = usize::from(order.short(directory)?);
    let entries = directory.get(2..)?.chunks_exact(ENTRY).take(count);
    let mut of_tag = entries.filter(|entry| order.short(entry) == Some(ORIENTATION));
    let value = of_tag.find_map(|entry| match order.short(&entry[2..])? {
        1 => Some(u32::from(entry[8])),
        3 => order.short(&entry[8..]).map(u32::from),
        4 => order.long(&entry[8..]),
        _ => None,
    });
    Some(meant(value?))
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
