//! Bicubic resizing, byte for byte as Pillow's (`src/libImaging/Resample.c`).
//!
//! Two passes, one along the rows and one along the columns, rounded to 8 bits
//! after each; a pass that would not change its side is skipped. A pixel is a
//! weighted sum of the pixels under the filter, which is widened for
//! downscaling (antialiasing), with weights in fixed point.

use std::borrow::Cow;

use super::{CHANNELS, Size};

/// Fractional bits of a weight.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, the initial value of each sum, for rounding.
const HALF: i32 = 1 << (PRECISION - 1);
/// Radius of the filter in source pixels.
const REACH: f64 = 2.0;

/// The weight at distance `x`: Keys's cubic convolution with a = -1/2, Pillow's default.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// Resizes the RGB `pixels` of a picture; neither size may have a side of zero.
pub(super) fn resize(pixels: &[u8], from: Size, to: Size) -> Vec<u8> {
    if columns_first(from, to) {
        let higher = height_to(pixels.into(), from, to.height);
        let from = Size::new(from.width, to.height);
        return width_to(higher, from, to.width).into_owned();
    }
    let wider = width_to(pixels.into(), from, to.width);
    let from = Size::new(to.width, from.height);
    height_to(wider, from, to.height).into_owned()
}

/// Whether the columns come first, as in Pillow since 13.0 if far more rows than columns
/// are dropped.
///
/// Pillow 12 and before always began with the rows. The order matters for sums
/// that are clipped to 8 bits in between.
fn columns_first(from: Size, to: Size) -> bool {
    let rows = from.height as i64 - to.height as i64;
    let columns = from.width as i64 - to.width as i64;
    rows > 0 && rows > 2 * columns
}

fn width_to(pixels: Cow<'_, [u8]>, from: Size, width: usize) -> Cow<'_, [u8]> {
    match from.width == width {
        true => pixels,
        false => along_rows(&pixels, from.width, &taps(from.width, width)).into(),
    }
}

fn height_to(pixels: Cow<'_, [u8]>, from: Size, height: usize) -> Cow<'_, [u8]> {
    match from.height == height {
        true => pixels,
        false => along_columns(&pixels, from.width, &taps(from.height, height)).into(),
    }
}

/// The source pixels of one pixel: the index of the first, and the weight of each.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// The source pixels of each of `to` pixels in a line of `from` pixels.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = REACH * stretch;
    let tap = |place| {
        let centre = (place as f64 + 0.5) * scale;
        // Casts truncate, and saturate at zero.
        let first = (centre - reach + 0.5) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |i| keys((i as f64 - centre + 0.5) * (1.0 / stretch));
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

/// Rounds a sum of weighted pixels to 8 bits.
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes every row from `width` to `taps.len()` pixels.
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

/// Resizes all columns to `taps.len()` pixels, a whole row of `width` pixels at a time.
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

    /// Source size, target size, and the checksum of the result.
    type Case = ([usize; 2], [usize; 2], u32);

    // Pillow 13.0, with the noise of crate::picture::tests:
    // h = 0
    // for v in noise(*source).resize(target).tobytes(): h = (h * 31 + v) & 0xffffffff
    const GOLDEN: [Case; 11] = [
        ([1, 1], [3, 2], 0x151a_3ee0),
        ([7, 5], [1, 1], 0x0002_082b),
        ([40, 30], [64, 64], 0x4a19_bf2f),
        ([64, 64], [24, 24], 0x283c_02a0),
        ([37, 23], [16, 29], 0x5249_52b4),
        ([23, 37], [29, 16], 0x20ef_9a77),
        ([50, 50], [51, 49], 0x1c15_c6b0),
        ([90, 1], [8, 8], 0xb90b_3da0),
        ([1, 90], [8, 8], 0x4ca4_9300),
        ([9, 30], [9, 13], 0x1ce3_32cc),
        ([30, 9], [13, 9], 0xf367_3dff),
    ];

    fn scaled([width, height]: [usize; 2], to: [usize; 2]) -> Vec<u8> {
        let picture = noise(width, height);
        resize(picture.pixels(), picture.size(), Size::new(to[0], to[1]))
    }

    fn checksum(bytes: &[u8]) -> u32 {
        let step = |sum: u32, byte: &u8| sum.wrapping_mul(31).wrapping_add(u32::from(*byte));
        bytes.iter().fold(0, step)
    }

    #[test]
    fn every_byte_is_pillows() {
        for (from, to, sum) in GOLDEN {
            assert_eq!(checksum(&scaled(from, to)), sum, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn small_results_are_pillows() {
        // list(noise(3, 2).resize((2, 2)).tobytes())
        let expected = [101, 60, 120, 197, 93, 34, 155, 116, 90, 216, 224, 73];
        assert_eq!(scaled([3, 2], [2, 2]), expected);
    }

    #[test]
    fn the_same_size_changes_nothing() {
        assert_eq!(scaled([13, 7], [13, 7]), noise(13, 7).pixels());
    }
}
