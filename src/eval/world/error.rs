//! How far two pictures are from one another.

use crate::picture::Picture;

/// Peak signal to noise in dB over the pixels that count, or none where none does.
pub fn psnr(a: &Picture, b: &Picture, counts: impl Fn(usize) -> bool) -> Option<f64> {
    let pixels = (0..a.size().pixels()).filter(|&i| counts(i)).count();
    let mean = squared_error(a, b, counts) / (3 * pixels) as f64;
    (pixels > 0).then(|| 10.0 * (255.0 * 255.0 / mean.max(1e-3)).log10())
}

/// The squared error over the pixels that count.
pub fn squared_error(a: &Picture, b: &Picture, counts: impl Fn(usize) -> bool) -> f64 {
    let pairs = a.pixels().chunks(3).zip(b.pixels().chunks(3)).enumerate();
    let gap = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    pairs
        .filter(|(pixel, _)| counts(*pixel))
        .map(|(_, (a, b))| a.iter().zip(b).map(gap).sum::<f64>())
        .sum()
}
