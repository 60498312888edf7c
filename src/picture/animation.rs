//! Animations, of which only the first frame is read.

/// Whether the bytes of a picture hold several frames: an animated PNG, WebP or GIF.
pub fn is_animated(bytes: &[u8]) -> bool {
    match bytes {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, chunks @ ..] => is_apng(chunks),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            chunks @ ..,
        ] => is_animated_webp(chunks),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', rest @ ..] => gif_frames(rest) > 1,
        _ => false,
    }
}

/// Whether an `acTL` chunk of more than one frame comes before the pixels (PNG, third
/// edition, 11.3.3.1).
fn is_apng(mut chunks: &[u8]) -> bool {
    while let Some(([a, b, c, d, kind @ ..], rest)) = chunks.split_first_chunk::<8>() {
        match kind {
            b"acTL" => {
                return rest
                    .get(..4)
                    .is_some_and(|frames| frames > &[0, 0, 0, 1][..]);
            }
            b"IDAT" => return false,
            _ => {}
        }
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let end = length.saturating_add(4); // the check sum
        chunks = rest.get(end..).unwrap_or_default();
    }
    false
}

/// Whether the extended header comes first, and has the animation bit.
fn is_animated_webp(chunks: &[u8]) -> bool {
    const ANIMATION: u8 = 0b10;
    matches!(chunks, [b'V', b'P', b'8', b'X', _, _, _, _, flags, ..] if flags & ANIMATION != 0)
}

/// The number of frames of a GIF, after its signature.
fn gif_frames(screen: &[u8]) -> usize {
    let mut frames = 0;
    let Some((&[_, _, _, _, flags, _, _], blocks)) = screen.split_first_chunk::<7>() else {
        return frames;
    };
    let mut rest = after_colours(flags, blocks);
    loop {
        rest = match rest {
            [0x21, _label, data @ ..] => after_data(data),
            [0x2c, _, _, _, _, _, _, _, _, flags, image @ ..] => {
                frames += 1;
                // The first byte of the pixels is the width of their codes.
                after_data(after_colours(*flags, image).get(1..).unwrap_or_default())
            }
            _ => return frames,
        }
    }
}

/// What follows the colour table that `flags` announce.
fn after_colours(flags: u8, rest: &[u8]) -> &[u8] {
    let entries = match flags & 0x80 {
        0 => 0,
        _ => 2 << (flags & 7),
    };
    rest.get(3 * entries..).unwrap_or_default()
}

/// What follows data in blocks of a length and so many bytes, the last of which is empty.
fn after_data(mut rest: &[u8]) -> &[u8] {
    while let Some((&length, data)) = rest.split_first() {
        rest = data.get(usize::from(length)..).unwrap_or_default();
        if length == 0 {
            break;
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Format, tests::noise};

    /// A chunk without its check sum, which is not read.
    fn chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_be_bytes();
        [&length, kind, data, &[0; 4]].concat()
    }

    #[test]
    fn pictures_of_one_frame_are_none() {
        for format in [Format::Png, Format::Jpeg, Format::WebP] {
            let bytes = noise(5, 4).encode(format).unwrap();
            assert!(!is_animated(&bytes));
            assert!((0..bytes.len()).all(|length| !is_animated(&bytes[..length])));
        }
    }

    #[test]
    fn an_animated_png_has_more_than_one_frame() {
        let png = noise(5, 4).encode(Format::Png).unwrap();
        let with = |frames: u32| {
            let control = [frames.to_be_bytes(), [0; 4]].concat();
            let (head, rest) = png.split_at(33); // signature and IHDR
            is_animated(&[head, &chunk(b"acTL", &control), rest].concat())
        };
        assert_eq!(
            [0, 1, 2, 256, 70000].map(with),
            [false, false, true, true, true]
        );
    }

    #[test]
    fn an_animated_webp_says_so_in_its_header() {
        let with =
            |flags| is_animated(&[b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0", &[flags, 0][..]].concat());
        assert_eq!([0b10, 0b11_0010, 0b11_1100].map(with), [true, true, false]);
    }

    #[test]
    fn the_frames_of_a_gif_are_counted() {
        let screen = [&b"GIF89a"[..], &[2, 0, 2, 0, 0x80, 0, 0], &[0; 6]].concat();
        let frame = [
            &[0x21, 0xf9, 4, 0, 9, 0, 0, 0, 0x2c][..],
            &[0; 8],
            &[0, 2, 2, 0x2c, 0x51, 0],
        ];
        let with =
            |frames| is_animated(&[&screen[..], &frame.concat().repeat(frames), &[0x3b]].concat());
        assert_eq!([0, 1, 2, 9].map(with), [false, false, true, true]);
    }
}
