//! Pictures of 8-bit RGB pixels.

mod animation;
mod composite;
pub mod contact;
mod decode;
mod encode;
mod exif;
pub mod fit;
mod heat;
mod jpeg;
mod kind;
pub mod label;
mod likeness;
mod mask;
pub mod matte;
mod metadata;
pub mod note;
mod png;
mod resize;
pub mod sheet;
mod tensor;
mod through_jpeg;
pub mod window;

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use crate::error::{Error, Result};
pub use animation::is_animated;
pub use decode::bytes_of;
pub use encode::Format;
pub use likeness::Border;
use resize::resize;

/// Bytes per pixel: red, green, blue.
const CHANNELS: usize = 3;

/// Why a file is no picture that can be read.
type Reason = Cow<'static, str>;

/// Width and height in pixels; `512x768` is 512 wide and 768 high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Size {
    /// Most pixels per side of a size that is read from a text or of a picture.
    pub const MAX_SIDE: usize = 16384;

    /// Creates a size.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }

    /// Number of pixels.
    pub const fn pixels(self) -> usize {
        self.width * self.height
    }

    /// This size with sides of at least one pixel.
    fn at_least_one(self) -> Self {
        Self::new(self.width.max(1), self.height.max(1))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sides = text.split_once('x').and_then(|(width, height)| {
            let side = |text: &str| {
                let side = text.parse().ok();
                side.filter(|side| (1..=Self::MAX_SIDE).contains(side))
            };
            Some(Self::new(side(width)?, side(height)?))
        });
        let reason = || format!("{text:?} is not a size: write e.g. 512x768");
        sides.ok_or_else(|| Error::setting(reason()))
    }
}

/// A picture of at least one pixel, row by row from the top, three bytes (RGB) per pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    size: Size,
    pixels: Vec<u8>,
    /// ICC colour profile; sRGB if absent.
    profile: Option<Arc<[u8]>>,
}

impl Picture {
    /// Creates a picture of `3 * width * height` bytes.
    pub fn new(size: Size, pixels: Vec<u8>) -> Result<Self> {
        let needed = size
            .width
            .checked_mul(size.height)
            .and_then(|count| count.checked_mul(CHANNELS));
        if pixels.is_empty() || needed != Some(pixels.len()) {
            let found = pixels.len();
            return Err(Error::setting(format!(
                "{found} bytes do not make a {size} RGB picture"
            )));
        }
        Ok(Self {
            size,
            pixels,
            profile: None,
        })
    }

    /// The ICC colour profile; sRGB if absent.
    pub fn profile(&self) -> Option<&[u8]> {
        self.profile.as_deref()
    }

    /// The same pixels with the colour profile of `other`.
    #[must_use]
    pub fn with_profile_of(self, other: &Self) -> Self {
        let profile = other.profile.clone();
        Self { profile, ..self }
    }

    /// The same pixels with an ICC colour profile for RGB; with sRGB if there is none.
    #[must_use]
    pub fn with_profile(self, profile: Option<Arc<[u8]>>) -> Self {
        Self { profile, ..self }
    }

    /// Other pixels with the same colour profile.
    fn of_pixels(&self, size: Size, pixels: Vec<u8>) -> Self {
        let profile = self.profile.clone();
        Self {
            size,
            pixels,
            profile,
        }
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The RGB bytes, row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Resizes the picture, bicubic and antialiased like Pillow's `Image.resize`.
    ///
    /// A side of zero becomes one pixel.
    #[must_use]
    pub fn resized(&self, to: Size) -> Self {
        let size = to.at_least_one();
        self.of_pixels(size, resize(&self.pixels, self.size, size))
    }

    /// A white picture of at least one pixel.
    fn blank(size: Size) -> Self {
        let size = size.at_least_one();
        Self {
            size,
            pixels: vec![u8::MAX; CHANNELS * size.pixels()],
            profile: None,
        }
    }

    /// Each pixel as a square of `factor` times `factor`, at least one.
    fn magnified(&self, factor: usize) -> Self {
        let factor = factor.max(1);
        let (from, _) = self.pixels.as_chunks::<CHANNELS>();
        let wide = |row: &[[u8; CHANNELS]]| -> Vec<u8> {
            let repeated = row.iter().flat_map(|pixel| [*pixel].repeat(factor));
            repeated.flatten().collect()
        };
        let rows = from.chunks(self.size.width).map(wide);
        let pixels = rows.flat_map(|row| row.repeat(factor)).collect();
        let Size { width, height } = self.size;
        self.of_pixels(Size::new(factor * width, factor * height), pixels)
    }

    fn paste(&mut self, part: &Self, left: usize, top: usize) {
        let line = CHANNELS * part.size.width;
        for (row, pixels) in part.pixels.chunks(line).enumerate() {
            let start = CHANNELS * ((top + row) * self.size.width + left);
            self.pixels[start..start + line].copy_from_slice(pixels);
        }
    }

    /// Crops a window; outside of the picture it has the pixels of the nearest edge.
    fn window(&self, left: isize, top: isize, size: Size) -> Self {
        let size = size.at_least_one();
        let (from, _) = self.pixels.as_chunks::<CHANNELS>();
        let columns = nearest(left, size.width, self.size.width);
        let rows = nearest(top, size.height, self.size.height);
        let pixels = rows
            .flat_map(|row| {
                let row = &from[row * self.size.width..][..self.size.width];
                columns.clone().flat_map(|column| row[column])
            })
            .collect();
        self.of_pixels(size, pixels)
    }
}

/// The indices `start..start + count`, clamped to `0..len`.
fn nearest(start: isize, count: usize, len: usize) -> impl Iterator<Item = usize> + Clone {
    let last = len as isize - 1;
    (0..count as isize).map(move |i| start.saturating_add(i).clamp(0, last) as usize)
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({})", self.size)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A picture of noise, for tests against Pillow:
    ///
    /// ```python
    /// def noise(w, h):
    ///     s, out = 1, []
    ///     for _ in range(3 * w * h):
    ///         s = (s * 1664525 + 1013904223) & 0xffffffff
    ///         out.append(s >> 24)
    ///     return Image.frombytes("RGB", (w, h), bytes(out))
    /// ```
    pub(crate) fn noise(width: usize, height: usize) -> Picture {
        let mut state: u32 = 1;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let size = Size::new(width, height);
        let pixels = bytes.take(CHANNELS * size.pixels()).collect();
        Picture::new(size, pixels).unwrap()
    }

    /// Pixels of one row whose red is `reds` and whose rest is black.
    pub(crate) fn row(reds: &[u8]) -> Picture {
        let pixels = reds.iter().flat_map(|&red| [red, 0, 0]).collect();
        Picture::new(Size::new(reds.len(), 1), pixels).unwrap()
    }

    #[test]
    fn bytes_that_do_not_fill_the_size_are_an_error() {
        let error = Picture::new(Size::new(2, 3), vec![0; 17]).unwrap_err();
        assert!(error.to_string().contains("17 bytes"), "{error}");
        assert!(error.to_string().contains("2x3"), "{error}");
        assert!(Picture::new(Size::new(0, 3), vec![]).is_err());
        assert!(Picture::new(Size::new(usize::MAX, 2), vec![0; 6]).is_err());
    }

    #[test]
    fn a_window_repeats_the_edge_outside() {
        let picture = noise(5, 4);
        let inside = picture.window(1, 2, Size::new(2, 1));
        assert_eq!(inside.pixels(), &picture.pixels()[3 * 11..3 * 13]);
        assert_eq!(
            row(&[1, 2, 3]).window(2, 0, Size::new(3, 1)),
            row(&[3, 3, 3])
        );
    }

    #[test]
    fn a_size_is_that_of_a_picture_that_can_be() {
        assert_eq!("512x768".parse::<Size>().unwrap(), Size::new(512, 768));
        for text in [
            "",
            "8",
            "0x8",
            "8x0",
            "1000000x1000000",
            "16385x1",
            "-8x8",
            "8x8x8",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_size_makes_a_picture_of_no_pixels() {
        let none = Size::new(0, 0);
        let one = Size::new(1, 1);
        assert_eq!(noise(3, 2).resized(none).size(), one);
        assert_eq!(noise(3, 2).window(9, 9, none).size(), one);
    }
}
