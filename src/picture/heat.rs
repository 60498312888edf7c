//! Heat maps over pictures.

use super::{CHANNELS, Picture, Size};
use crate::error::{Error, Result};

/// The colour map from cold to hot, evenly spaced.
const COLOURS: [[f32; 3]; 5] = [
    [0.0, 0.0, 0.3],
    [0.5, 0.0, 0.5],
    [0.9, 0.2, 0.2],
    [1.0, 0.7, 0.1],
    [1.0, 1.0, 0.8],
];
/// Opacity of the grey picture below a heat map.
const PICTURE: f32 = 0.35;

impl Picture {
    /// The picture in grey below a heat map of the values `map`, row by row. The largest
    /// value is hottest, 0 is coldest.
    pub fn heated(&self, map: &[f32], of: Size) -> Result<Self> {
        if map.len() != of.pixels() || map.is_empty() {
            let reason = format!("{} values do not make a {of} map", map.len());
            return Err(Error::setting(reason));
        }
        let max = map.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let level = |value: &f32| (255.0 * (value / max).clamp(0.0, 1.0)).round() as u8;
        let levels = map.iter().flat_map(|value| [level(value); CHANNELS]);
        let levels = Self::new(of, levels.collect())?.resized(self.size());
        let (heats, _) = levels.pixels().as_chunks::<CHANNELS>();
        let (pixels, _) = self.pixels().as_chunks::<CHANNELS>();
        let mixed = heats.iter().zip(pixels).flat_map(|(heat, pixel)| {
            let below = PICTURE * grey(*pixel);
            let colour = colour(f32::from(heat[0]) / 255.0);
            colour.map(|value| (below + (1.0 - PICTURE) * 255.0 * value).round() as u8)
        });
        Ok(self.of_pixels(self.size(), mixed.collect()))
    }
}

/// The luma of a pixel, 0 to 255 (ITU-R BT.601).
pub(super) fn grey([red, green, blue]: [u8; CHANNELS]) -> f32 {
    0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)
}

/// The colour of a heat from 0 to 1.
fn colour(heat: f32) -> [f32; 3] {
    let place = heat * (COLOURS.len() - 1) as f32;
    let cold = (place as usize).min(COLOURS.len() - 2);
    let share = place - cold as f32;
    [0, 1, 2].map(|i| COLOURS[cold][i] * (1.0 - share) + COLOURS[cold + 1][i] * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_hottest() {
        let white = Picture::new(Size::new(2, 1), vec![255; 6]).unwrap();
        let heated = white.heated(&[0.5, 0.0], Size::new(2, 1)).unwrap();
        let over = |value: f32| ((PICTURE + (1.0 - PICTURE) * value) * 255.0).round() as u8;
        let [hot, cold] = [COLOURS[4].map(over), COLOURS[0].map(over)];
        assert_eq!(heated.pixels(), [hot, cold].concat());
    }

    #[test]
    fn a_map_grows_to_its_picture_and_one_without_heat_is_cold() {
        let black = Picture::new(Size::new(6, 6), vec![0; 108]).unwrap();
        let cold = black.heated(&[0.0; 4], Size::new(2, 2)).unwrap();
        assert_eq!(cold.size(), black.size());
        assert_eq!(cold.pixels()[..3], [0, 0, 50]);
        assert!(black.heated(&[0.0; 3], Size::new(2, 2)).is_err());
    }
}
