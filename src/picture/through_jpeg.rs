//! What JPEG makes of a picture, byte for byte as libjpeg writes and reads it by default, and
//! so Pillow: chroma of half the size, the slow integer transform, smooth upsampling.
//!
//! Huffman codes lose nothing, so no file is made.

mod chroma;
mod transform;

use super::{CHANNELS, Picture, Size};
use chroma::{halved, upsampled};
use transform::{BLOCK, Table, through};

/// The tables of quality 50, row by row (ITU-T T.81, K.1).
const LUMA: Table = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA: Table = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// Samples of one component, row by row.
#[derive(Clone)]
struct Plane {
    size: Size,
    samples: Vec<u8>,
}

impl Plane {
    /// The sample here, or the nearest one.
    fn at(&self, x: usize, y: usize) -> u8 {
        let (x, y) = (x.min(self.size.width - 1), y.min(self.size.height - 1));
        self.samples[y * self.size.width + x]
    }

    /// The upper left of the plane.
    fn cropped(&self, size: Size) -> Self {
        let rows = self.samples.chunks_exact(self.size.width).take(size.height);
        let samples = rows.flat_map(|row| row[..size.width].iter().copied());
        Self {
            size,
            samples: samples.collect(),
        }
    }

    /// The plane through the transform and the table, block by block; samples at the right and
    /// below are repeated to fill blocks.
    fn through(&self, table: &Table) -> Self {
        let Size { width, height } = self.size;
        let mut samples = self.samples.clone();
        for top in (0..height).step_by(BLOCK) {
            for left in (0..width).step_by(BLOCK) {
                let places = (0..BLOCK * BLOCK).map(|i| (left + i % BLOCK, top + i / BLOCK));
                let mut block = [0; BLOCK * BLOCK];
                for (value, (x, y)) in block.iter_mut().zip(places.clone()) {
                    *value = self.at(x, y);
                }
                let block = through(&block, table);
                let inside = block
                    .iter()
                    .zip(places)
                    .filter(|(_, (x, y))| *x < width && *y < height);
                inside.for_each(|(value, (x, y))| samples[y * width + x] = *value);
            }
        }
        Self { samples, ..*self }
    }
}

impl Picture {
    /// The picture as it comes out of a JPEG file of a quality from 1 to 100.
    #[must_use]
    pub fn through_jpeg(&self, quality: u8) -> Self {
        let [luma, blue, red] = ycc(self);
        let luma = luma.through(&scaled(&LUMA, quality));
        let table = scaled(&CHROMA, quality);
        let chroma = [blue, red].map(|plane| upsampled(&halved(&plane).through(&table), self.size));
        let [blue, red] = &chroma;
        let pixels = luma.samples.iter().zip(&blue.samples).zip(&red.samples);
        let pixels = pixels.flat_map(|((y, cb), cr)| rgb(*y, *cb, *cr));
        self.of_pixels(self.size, pixels.collect())
    }
}

/// The table of a quality.
fn scaled(table: &Table, quality: u8) -> Table {
    let quality = u16::from(quality.clamp(1, 100));
    let scale = match quality < 50 {
        true => 5000 / quality,
        false => 200 - 2 * quality,
    };
    table.map(|step| ((u32::from(step) * u32::from(scale) + 50) / 100).clamp(1, 255) as u16)
}

/// Fractional bits of the factors of colours.
const BITS: u32 = 16;
const HALF: i32 = 1 << (BITS - 1);
/// Of chroma, whose zero is in the middle; a bit less than rounding.
const CENTRE: i32 = (128 << BITS) + HALF - 1;

/// Luma, blue and red of a picture.
fn ycc(picture: &Picture) -> [Plane; 3] {
    let plane = |factors: [i32; CHANNELS], offset: i32| {
        let sample = |pixel: &[u8]| {
            let parts = pixel.iter().zip(factors);
            let sum: i32 = parts
                .map(|(value, factor)| i32::from(*value) * factor)
                .sum();
            ((sum + offset) >> BITS) as u8
        };
        Plane {
            size: picture.size,
            samples: picture.pixels.chunks_exact(CHANNELS).map(sample).collect(),
        }
    };
    [
        plane([19_595, 38_470, 7_471], HALF),
        plane([-11_059, -21_709, 32_768], CENTRE),
        plane([32_768, -27_439, -5_329], CENTRE),
    ]
}

fn rgb(luma: u8, blue: u8, red: u8) -> [u8; CHANNELS] {
    let [y, cb, cr] = [i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128];
    let r = y + ((91_881 * cr + HALF) >> BITS);
    let g = y + ((-22_554 * cb - 46_802 * cr + HALF) >> BITS);
    let b = y + ((116_130 * cb + HALF) >> BITS);
    [r, g, b].map(|value| value.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::noise;

    /// The size, the quality, and the checksum of what Pillow 13.0 (libjpeg-turbo) reads of what
    /// it wrote:
    ///
    /// ```python
    /// file = io.BytesIO(); picture.save(file, "JPEG", quality=quality)
    /// h = 0
    /// for v in Image.open(file).tobytes(): h = (h * 31 + v) & 0xffffffff
    /// ```
    ///
    /// of the noise of crate::picture::tests, resized to twice the sides (bicubic) so that its
    /// colours are not all clipped.
    const GOLDEN: [([usize; 2], u8, u32); 8] = [
        ([16, 16], 75, 0xfa31_d1f4),
        ([20, 15], 75, 0x5092_b550),
        ([37, 23], 95, 0xc70e_8f23),
        ([8, 9], 40, 0xd7e2_8629),
        ([2, 3], 75, 0xc9b6_1879),
        ([3, 50], 10, 0x93bd_62b2),
        ([1, 1], 75, 0x6bca_f7a0),
        ([33, 9], 75, 0xb419_53cd),
    ];

    #[test]
    fn pixels_are_those_of_pillow() {
        for ([width, height], quality, expected) in GOLDEN {
            let picture = noise(width, height).resized(Size::new(2 * width, 2 * height - 1));
            let through = picture.through_jpeg(quality);
            let sum = through.pixels().iter().fold(0_u32, |sum, value| {
                sum.wrapping_mul(31).wrapping_add(u32::from(*value))
            });
            assert_eq!(sum, expected, "{width}x{height} at {quality}");
        }
    }
}
