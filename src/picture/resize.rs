//! Resizing with every byte as Pillow has it (`src/libImaging/Resample.c`).
//!
//! Two passes, one along the rows and one along the columns, rounded to 8 bits
//! after each; a pass that would not change its side is left out. A pixel is a
//! weighted sum of the pixels under the filter, which is as wide as the
//! shrinking demands (antialiasing), with weights in fixed point.

use std::borrow::Cow;

use super::{CHANNELS, Size};

/// Bits after the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, where each sum starts so that cutting the bits off rounds it.
const HALF: i32 = 1 << (PRECISION - 1);

/// The shape of the weights around a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The triangle: linear between two pixels.
    Bilinear,
    /// Keys's cubic convolution with a = -1/2, Pillow's default.
    Bicubic,
}

impl Filter {
    /// How many source pixels the filter reaches to either side.
    fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The weight at the distance `x`.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match (self, x.abs()) {
            (Self::Bilinear, x) if x < 1.0 => 1.0 - x,
            (Self::Bicubic, x) if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            (Self::Bicubic, x) if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// The RGB `pixels` of a picture of the size `from`, scaled to the size `to`.
///
/// There are three bytes a pixel, row by row. A size without pixels gives none.
pub fn resize(pixels: &[u8], from: Size, to: Size, filter: Filter) -> Vec<u8> {
    if from.pixels() == 0 || to.pixels() == 0 {
        return Vec::new();
    }
    if columns_first(from, to) {
        let higher = height_to(pixels.into(), from, to.height, filter);
        let from = Size::new(from.width, to.height);
        return width_to(higher, from, to.width, filter).into_owned();
    }
    let wider = width_to(pixels.into(), from, to.width, filter);
    let from = Size::new(to.width, from.height);
    height_to(wider, from, to.height, filter).into_owned()
}

/// Whether Pillow takes the columns first: since 13.0 where far more rows than columns fall away.
///
/// Pillow 12 and before always took the rows first. The order shows where a
/// sum is clipped to 8 bits in between.
fn columns_first(from: Size, to: Size) -> bool {
    let rows = from.height as i64 - to.height as i64;
    let columns = from.width as i64 - to.width as i64;
    rows > 0 && rows > 2 * columns
}

fn width_to(pixels: Cow<'_, [u8]>, from: Size, width: usize, filter: Filter) -> Cow<'_, [u8]> {
    if from.width == width {
        return pixels;
    }
    along_rows(&pixels, from.width, &taps(from.width, width, filter)).into()
}

fn height_to(pixels: Cow<'_, [u8]>, from: Size, height: usize, filter: Filter) -> Cow<'_, [u8]> {
    if from.height == height {
        return pixels;
    }
    along_columns(&pixels, from.width, &taps(from.height, height, filter)).into()
}

/// The source pixels that make one pixel: the first of them, and the weight of each.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// What makes each of `to` pixels out of a line of `from` pixels.
fn taps(from: usize, to: usize, filter: Filter) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = filter.reach() * stretch;
    let tap = |place| {
        let centre = (place as f64 + 0.5) * scale;
        // Casts cut towards zero, and what is below zero to zero.
        let first = (centre - reach + 0.5) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |i| filter.weight((i as f64 - centre + 0.5) * (1.0 / stretch));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum = weights.iter().sum::<f64>();
        let weights = weights.iter().map(|w| fixed(w / sum)).collect();
        Tap { first, weights }
    };
    (0..to).map(tap).collect()
}

/// A weight in fixed point, rounded half away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (scaled + 0.5_f64.copysign(scaled)) as i32
}

/// A sum of weighted pixels as 8 bits.
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Every row, `width` pixels long, as one of `taps.len()` pixels.
fn along_rows(pixels: &[u8], width: usize, taps: &[Tap]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / width * taps.len());
    let (pixels, _) = pixels.as_chunks::<CHANNELS>();
    for row in pixels.chunks_exact(width) {
        for tap in taps {
            let mut sums = [HALF; CHANNELS];
            for (pixel, weight) in row[tap.first..].iter().zip(&tap.weights) {
                add(&mut sums, pixel, *weight);
            }
            out.extend(sums.map(clip));
        }
    }
    out
}

/// The columns as ones of `taps.len()` pixels, a whole row of `width` pixels at a time.
fn along_columns(pixels: &[u8], width: usize, taps: &[Tap]) -> Vec<u8> {
    let stride = CHANNELS * width;
    let mut out = Vec::with_capacity(stride * taps.len());
    let mut sums = vec![HALF; stride];
    for tap in taps {
        sums.fill(HALF);
        let rows = pixels[tap.first * stride..].chunks_exact(stride);
        for (row, weight) in rows.zip(&tap.weights) {
            add(&mut sums, row, *weight);
        }
        out.extend(sums.iter().map(|sum| clip(*sum)));
    }
    out
}

/// Adds weighted bytes to their sums.
fn add(sums: &mut [i32], bytes: &[u8], weight: i32) {
    for (sum, byte) in sums.iter_mut().zip(bytes) {
        *sum += i32::from(*byte) * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::noise;

    /// Source size, target size, and the checksums of the bicubic and the bilinear result.
    type Case = ([usize; 2], [usize; 2], u32, u32);

    // Pillow 13.0, with the noise of crate::picture::tests:
    // h = 0
    // for v in noise(*source).resize(target, filter).tobytes(): h = (h * 31 + v) & 0xffffffff
    const GOLDEN: [Case; 11] = [
        ([1, 1], [3, 2], 0x151a_3ee0, 0x151a_3ee0),
        ([7, 5], [1, 1], 0x0002_082b, 0x0002_0469),
        ([40, 30], [64, 64], 0x4a19_bf2f, 0x34b4_1589),
        ([64, 64], [24, 24], 0x283c_02a0, 0x9052_5db7),
        ([37, 23], [16, 29], 0x5249_52b4, 0x93be_f2b5),
        ([23, 37], [29, 16], 0x20ef_9a77, 0xecd1_943c),
        ([50, 50], [51, 49], 0x1c15_c6b0, 0x7e71_2eab),
        ([90, 1], [8, 8], 0xb90b_3da0, 0xad14_a718),
        ([1, 90], [8, 8], 0x4ca4_9300, 0x618c_7180),
        ([9, 30], [9, 13], 0x1ce3_32cc, 0x7ff9_8d1e),
        ([30, 9], [13, 9], 0xf367_3dff, 0x873b_1ab6),
    ];

    fn scaled([width, height]: [usize; 2], to: [usize; 2], filter: Filter) -> Vec<u8> {
        let picture = noise(width, height);
        let to = Size::new(to[0], to[1]);
        resize(picture.pixels(), picture.size(), to, filter)
    }

    fn checksum(bytes: &[u8]) -> u32 {
        let step = |sum: u32, byte: &u8| sum.wrapping_mul(31).wrapping_add(u32::from(*byte));
        bytes.iter().fold(0, step)
    }

    #[test]
    fn every_byte_is_pillows() {
        for (from, to, bicubic, bilinear) in GOLDEN {
            let sum = |filter| checksum(&scaled(from, to, filter));
            assert_eq!(sum(Filter::Bicubic), bicubic, "{from:?} to {to:?}");
            assert_eq!(sum(Filter::Bilinear), bilinear, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn small_results_are_pillows() {
        // list(noise(3, 2).resize((2, 2)).tobytes()), and with Image.Resampling.BILINEAR
        let bicubic = [101, 60, 120, 197, 93, 34, 155, 116, 90, 216, 224, 73];
        let bilinear = [105, 63, 116, 191, 93, 38, 159, 120, 90, 214, 218, 74];
        assert_eq!(scaled([3, 2], [2, 2], Filter::Bicubic), bicubic);
        assert_eq!(scaled([3, 2], [2, 2], Filter::Bilinear), bilinear);
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let same = scaled([13, 7], [13, 7], Filter::Bicubic);
        assert_eq!(same, noise(13, 7).pixels());
    }

    #[test]
    fn a_size_without_pixels_gives_none() {
        assert!(scaled([3, 2], [0, 2], Filter::Bicubic).is_empty());
        assert!(resize(&[], Size::new(0, 2), Size::new(2, 2), Filter::Bicubic).is_empty());
    }
}
