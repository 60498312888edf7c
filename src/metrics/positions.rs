//! The table of positions of a vision transformer, for another number of patches.

/// Coefficient of PyTorch's cubic convolution.
const A: f64 = -0.75;

/// How the places in the table follow from those of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositionRule {
    /// By a scale for a tenth of a patch more, as in DINO.
    Dino,
    /// By the sizes, as in transformers.
    Sizes,
}

impl PositionRule {
    fn scale(self, from: usize, to: usize) -> f64 {
        match self {
            Self::Dino => from as f64 / (to as f64 + 0.1),
            Self::Sizes => from as f64 / to as f64,
        }
    }
}

/// A table of (side * side) rows of `width` values for (rows, columns) patches, by bicubic
/// interpolation without antialiasing, as PyTorch's `interpolate`.
pub(super) fn resized(
    table: &[f32],
    (side, width): (usize, usize),
    [rows, columns]: [usize; 2],
    rule: PositionRule,
) -> Vec<f32> {
    let down: Vec<_> = (0..rows)
        .map(|y| taps(y, rule.scale(side, rows), side))
        .collect();
    let across: Vec<_> = (0..columns)
        .map(|x| taps(x, rule.scale(side, columns), side))
        .collect();
    let mut out = vec![0.0; rows * columns * width];
    for (place, values) in out.chunks_exact_mut(width).enumerate() {
        for (y, high) in &down[place / columns] {
            for (x, wide) in &across[place % columns] {
                let weight = (high * wide) as f32;
                let row = &table[(y * side + x) * width..][..width];
                let pairs = values.iter_mut().zip(row);
                pairs.for_each(|(value, from)| *value += weight * from);
            }
        }
    }
    out
}

/// The four places around a patch, of so many, with their weights.
fn taps(place: usize, scale: f64, side: usize) -> [(usize, f64); 4] {
    let at = (place as f64 + 0.5) * scale - 0.5;
    let (floor, t) = (at.floor(), at - at.floor());
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    let index = |i: usize| (floor as isize + i as isize - 1).clamp(0, side as isize - 1) as usize;
    [0, 1, 2, 3].map(|i| (index(i), weights[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torch.nn.functional.interpolate(torch.arange(9.).reshape(1, 1, 3, 3) ** 2, ..,
    /// mode="bicubic") with size=(2, 4), and with scale_factor=(2.1 / 3, 4.1 / 3).
    #[test]
    fn values_are_those_of_pytorch() {
        let table: Vec<f32> = (0..9).map(|x| (x * x) as f32).collect();
        for (rule, expected) in [(PositionRule::Sizes, SIZES), (PositionRule::Dino, DINO)] {
            let found = resized(&table, (3, 1), [2, 4], rule);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    const SIZES: [f32; 8] = [
        0.935_635, 2.008_327, 4.969_212, 7.684_483, 29.348_543, 36.258_278, 48.344_269, 56.896_568,
    ];
    const DINO: [f32; 8] = [
        0.832_246, 1.758_489, 4.415_601, 7.100_073, 26.499_228, 32.817_268, 44.072_216, 52.539_734,
    ];
}
