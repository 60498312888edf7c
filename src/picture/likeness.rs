//! Similarity of pictures: mean squared error, PSNR and SSIM.

use super::{CHANNELS, Picture};
use crate::error::{Error, Result};

/// The window of SSIM: a Gaussian with this standard deviation over 11 pixels.
const DEVIATION: f64 = 1.5;
const REACH: usize = 5;
/// The stabilising constants of SSIM, for values up to 255.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// Where the window of SSIM reaches beyond the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// Only positions where the window fits count, as in the definition, in scikit-image, and in
    /// torchmetrics before 1.4.2.
    Cut,
    /// All positions count; the picture is mirrored at its edges, which are not repeated, as in
    /// torchmetrics since 1.4.2.
    Mirrored,
}

impl Picture {
    /// The mean squared error to a picture of the same size, over all channels, of values from
    /// 0 to 1.
    pub fn mse(&self, other: &Self) -> Result<f64> {
        self.check_size(other)?;
        let pairs = self.pixels().iter().zip(other.pixels());
        let squares = pairs.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2));
        let mean = squares.sum::<u64>() as f64 / self.pixels().len() as f64;
        Ok(mean / (255.0 * 255.0))
    }

    /// The peak signal-to-noise ratio to a picture of the same size in decibels,
    /// over all channels; infinite if the two are equal.
    pub fn psnr(&self, other: &Self) -> Result<f64> {
        Ok(-10.0 * self.mse(other)?.log10())
    }

    /// The structural similarity to a picture of the same size (Wang et al.,
    /// 2004: Gaussian window of standard deviation 1.5 over 11 pixels), averaged over
    /// the channels and all positions where the window fits; at most 1.
    ///
    /// Both sides must have at least 11 pixels.
    pub fn ssim(&self, other: &Self) -> Result<f64> {
        self.ssim_with(other, Border::Cut)
    }

    /// The structural similarity with another rule for the border.
    pub fn ssim_with(&self, other: &Self, border: Border) -> Result<f64> {
        self.check_size(other)?;
        let (width, height) = (self.size().width, self.size().height);
        if width.min(height) < 2 * REACH + 1 {
            let reason = format!("a {} picture is too small for SSIM", self.size());
            return Err(Error::setting(reason));
        }
        let channels = (0..CHANNELS).map(|channel| match border {
            Border::Cut => similarity(&self.plane(channel), &other.plane(channel), width),
            Border::Mirrored => {
                let plane = |picture: &Self| mirrored(&picture.plane(channel), width);
                similarity(&plane(self), &plane(other), width + 2 * REACH)
            }
        });
        Ok(channels.sum::<f64>() / CHANNELS as f64)
    }

    /// The values of a channel, row by row.
    fn plane(&self, channel: usize) -> Vec<f64> {
        let values = self.pixels().iter().skip(channel).step_by(CHANNELS);
        values.map(|&value| f64::from(value)).collect()
    }

    fn check_size(&self, other: &Self) -> Result<()> {
        let (a, b) = (self.size(), other.size());
        match a == b {
            true => Ok(()),
            false => Err(Error::setting(format!(
                "pictures of {a} and {b} cannot be compared pixel by pixel"
            ))),
        }
    }
}

/// The plane with [`REACH`] mirrored values around it; its sides are longer than that.
fn mirrored(plane: &[f64], width: usize) -> Vec<f64> {
    let height = plane.len() / width;
    let places = |side: usize| {
        let last = side as isize - 1;
        let reach = REACH as isize;
        (-reach..=last + reach).map(move |i| (last - (last - i.abs()).abs()) as usize)
    };
    let row = |y: usize| places(width).map(move |x| plane[y * width + x]);
    places(height).flat_map(row).collect()
}

/// SSIM of two planes of rows of `width` values.
fn similarity(a: &[f64], b: &[f64], width: usize) -> f64 {
    let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| a * b).collect()
    };
    let blurred = |plane: &[f64]| blur(plane, width);
    let (mean_a, mean_b) = (blurred(a), blurred(b));
    let squares_a = blurred(&product(a, a));
    let squares_b = blurred(&product(b, b));
    let products = blurred(&product(a, b));
    let place = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb) = (squares_a[i] - ma * ma, squares_b[i] - mb * mb);
        let common = products[i] - ma * mb;
        (2.0 * ma * mb + C1) * (2.0 * common + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    (0..mean_a.len()).map(place).sum::<f64>() / mean_a.len() as f64
}

/// The plane convolved with the window, without padding.
fn blur(plane: &[f64], width: usize) -> Vec<f64> {
    let window = window();
    let rows = plane.chunks_exact(width).flat_map(|row| {
        let windows = row.windows(window.len());
        windows.map(|part| weighted(part.iter(), &window))
    });
    let rows: Vec<f64> = rows.collect();
    let narrow = width - 2 * REACH;
    let height = rows.len() / narrow;
    let column =
        |top: usize, x: usize| weighted(rows[top * narrow + x..].iter().step_by(narrow), &window);
    (0..height - 2 * REACH)
        .flat_map(|top| (0..narrow).map(move |x| (top, x)))
        .map(|(top, x)| column(top, x))
        .collect()
}

fn weighted<'a>(values: impl Iterator<Item = &'a f64>, weights: &[f64]) -> f64 {
    values
        .zip(weights)
        .map(|(value, weight)| value * weight)
        .sum()
}

fn window() -> Vec<f64> {
    let weight = |i: usize| {
        let distance = i as f64 - REACH as f64;
        (-distance * distance / (2.0 * DEVIATION * DEVIATION)).exp()
    };
    let weights: Vec<f64> = (0..=2 * REACH).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Size, tests::noise};

    #[test]
    fn equal_pictures_are_alike_to_the_last_bit() {
        let picture = noise(20, 15);
        assert_eq!(picture.psnr(&picture).unwrap(), f64::INFINITY);
        assert!((picture.ssim(&picture).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_known_error_has_a_known_ratio() {
        let plain = |value| Picture::new(Size::new(12, 12), vec![value; 432]).unwrap();
        let ratio = plain(100).psnr(&plain(110)).unwrap();
        assert!((ratio - 20.0 * 25.5_f64.log10()).abs() < 1e-12);
        // Flat pictures differ in their means alone.
        let expected = (2.0 * 100.0 * 110.0 + C1) / (100.0 * 100.0 + 110.0 * 110.0 + C1);
        let likeness = plain(100).ssim(&plain(110)).unwrap();
        assert!((likeness - expected).abs() < 1e-9);
    }

    // scikit-image 0.26: structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
    // use_sample_covariance=False, channel_axis=2, data_range=255), peak_signal_noise_ratio
    #[test]
    fn both_measures_are_those_of_scikit_image() {
        let picture = noise(20, 15);
        let halves = picture.pixels().iter().map(|value| value / 2 + 40);
        let pale = Picture::new(picture.size(), halves.collect()).unwrap();
        let mirrored = picture.pixels().chunks(CHANNELS * 20).flat_map(|row| {
            let (pixels, _) = row.as_chunks::<CHANNELS>();
            pixels.iter().rev().flatten().copied().collect::<Vec<_>>()
        });
        let mirrored = Picture::new(picture.size(), mirrored.collect()).unwrap();
        for (other, ssim, psnr) in [
            (pale, 0.779_702_034_675_841_6, 15.098_425_325_210_318),
            (mirrored, 0.014_939_840_510_053_435, 7.987_785_644_803_495),
        ] {
            assert!((picture.ssim(&other).unwrap() - ssim).abs() < 1e-9);
            assert!((picture.psnr(&other).unwrap() - psnr).abs() < 1e-9);
        }
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        assert!(noise(4, 4).psnr(&noise(4, 5)).is_err());
        let error = noise(10, 20).ssim(&noise(10, 20)).unwrap_err().to_string();
        assert!(error.contains("10x20"), "{error}");
    }
}
