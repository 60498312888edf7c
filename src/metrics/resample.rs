//! Bilinear resizing of values that are not rounded, as torchvision's `Resize` of tensors.

use crate::picture::{Picture, Size};

/// Whether a smaller picture is a mean over all pixels, or skips some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Antialias {
    /// The triangle is widened by the scale, as in torchvision from 0.17.
    On,
    /// Between the two nearest pixels, as in torchvision before.
    Off,
}

/// The places that a value is a sum over: the first, and the weight of each.
struct Tap {
    first: usize,
    weights: Vec<f64>,
}

/// The channels of a picture, from 0 to 255, resized: (3, height, width) in a row.
pub(super) fn bilinear(picture: &Picture, to: Size, antialias: Antialias) -> Vec<f32> {
    let from = picture.size();
    let [columns, rows] = [(from.width, to.width), (from.height, to.height)]
        .map(|(from, to)| taps(from, to, antialias));
    let plane = |channel: usize| {
        let values = picture.pixels().iter().skip(channel).step_by(3);
        let values: Vec<_> = values.map(|value| f64::from(*value)).collect();
        let wide = values.chunks_exact(from.width);
        let narrow: Vec<f64> = wide
            .flat_map(|row| columns.iter().map(|tap| tap.sum(|x| row[x])))
            .collect();
        let column = |x: usize, tap: &Tap| tap.sum(|y| narrow[y * to.width + x]) as f32;
        let all = rows.iter();
        let all = all.flat_map(|tap| (0..to.width).map(move |x| column(x, tap)));
        all.collect::<Vec<_>>()
    };
    (0..3).flat_map(plane).collect()
}

impl Tap {
    fn sum(&self, value: impl Fn(usize) -> f64) -> f64 {
        let weights = self.weights.iter().enumerate();
        weights
            .map(|(i, weight)| weight * value(self.first + i))
            .sum()
    }
}

fn taps(from: usize, to: usize, antialias: Antialias) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let tap = |place: usize| match antialias {
        Antialias::On => averaged(place, scale, from),
        Antialias::Off => between(place, scale, from),
    };
    (0..to).map(tap).collect()
}

/// As `_upsample_bilinear2d_aa` of PyTorch.
fn averaged(place: usize, scale: f64, from: usize) -> Tap {
    let reach = scale.max(1.0);
    let centre = scale * (place as f64 + 0.5);
    // Casts truncate, and saturate at zero.
    let first = (centre - reach + 0.5) as usize;
    let end = ((centre + reach + 0.5) as usize).min(from);
    let weight = |i: usize| (1.0 - ((i as f64 - centre + 0.5) / reach).abs()).max(0.0);
    let weights: Vec<_> = (first..end).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    Tap {
        first,
        weights: weights.iter().map(|weight| weight / sum).collect(),
    }
}

/// As `upsample_bilinear2d` of PyTorch without aligned corners.
fn between(place: usize, scale: f64, from: usize) -> Tap {
    let at = ((place as f64 + 0.5) * scale - 0.5).max(0.0);
    let first = (at as usize).min(from - 1);
    let far = at - first as f64;
    Tap {
        first,
        weights: match first + 1 < from {
            true => vec![1.0 - far, far],
            false => vec![1.0],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::row;

    /// torch.nn.functional.interpolate(x, size=(1, n), mode="bilinear", antialias=..) of
    /// [[10, 20, 40, 80, 160, 0, 7]].
    #[test]
    fn values_are_those_of_pytorch() {
        let reds = row(&[10, 20, 40, 80, 160, 0, 7]);
        for (width, antialias, expected) in [
            (3, Antialias::Off, &[16.666_666, 80.0, 2.333_331][..]),
            (3, Antialias::On, &[20.714_285, 81.176_47, 36.785_724]),
            (9, Antialias::Off, &WIDER),
            (9, Antialias::On, &WIDER),
        ] {
            let out = bilinear(&reds, Size::new(width, 1), antialias);
            for (found, expected) in out.iter().zip(expected) {
                assert!((found - expected).abs() < 2e-4, "{found} {expected}");
            }
        }
    }

    const WIDER: [f32; 9] = [
        10.0, 16.666_668, 28.888_89, 48.888_893, 80.0, 142.222_23, 71.111_07, 2.333_334, 7.0,
    ];
}
