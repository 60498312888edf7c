//! Compositing: a layer over a picture.

use super::{CHANNELS, Picture, matte::Matte};
use crate::error::{Error, Result};

impl Picture {
    /// Lays a layer over this picture as opaque as its matte says, in 8 bits:
    /// `round(picture + alpha (layer - picture))`.
    ///
    /// Where alpha is 0 the picture keeps its bytes, where it is 1 they are the layer's.
    /// The colour profile stays. All three must be of one size.
    pub fn composite(&self, layer: &Self, matte: &Matte) -> Result<Self> {
        let sizes = [self.size, layer.size, matte.size()];
        if sizes.iter().any(|size| *size != self.size) {
            let [picture, layer, matte] = sizes;
            let reason =
                format!("a layer of {layer} by a matte of {matte} does not cover {picture}");
            return Err(Error::setting(reason));
        }
        let pairs = self
            .pixels
            .chunks(CHANNELS)
            .zip(layer.pixels.chunks(CHANNELS));
        let pixels = pairs
            .zip(matte.values())
            .flat_map(|((below, above), &alpha)| {
                let bytes = below.iter().zip(above);
                bytes.map(move |(below, above)| mixed(*below, *above, alpha))
            });
        Ok(self.of_pixels(self.size, pixels.collect()))
    }
}

/// One byte over another. The sum is exact in double precision and rounded once.
fn mixed(below: u8, above: u8, alpha: f32) -> u8 {
    let (below, above) = (f64::from(below), f64::from(above));
    (below + f64::from(alpha) * (above - below)).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Size, tests::noise};

    /// round(below + grey (above - below) / 255) in whole numbers.
    fn plain(below: u8, above: u8, grey: u8) -> u8 {
        let [below, above, grey] = [below, above, grey].map(i32::from);
        let doubled = 2 * (255 * below + grey * (above - below)) + 255;
        (doubled / 510) as u8
    }

    #[test]
    fn every_byte_over_every_other_is_rounded_to_the_nearest() {
        for grey in 0..=255 {
            let alpha = f32::from(grey) / 255.0;
            for below in 0..=255 {
                for above in 0..=255 {
                    let (found, expected) = (mixed(below, above, alpha), plain(below, above, grey));
                    assert_eq!(found, expected, "{above} over {below} by {grey}");
                }
            }
        }
    }

    #[test]
    fn nothing_keeps_the_picture_and_all_is_the_layer() {
        let size = Size::new(6, 5);
        let (picture, layer) = (noise(6, 5), noise(7, 5).resized(size));
        let matte = |byte| Matte::of_luma(&Picture::new(size, vec![byte; 90]).unwrap());
        assert_eq!(picture.composite(&layer, &matte(0)).unwrap(), picture);
        assert_eq!(picture.composite(&layer, &matte(255)).unwrap(), layer);
        let half = picture.composite(&layer, &matte(51)).unwrap();
        let bytes = picture.pixels().iter().zip(layer.pixels());
        let expected: Vec<u8> = bytes.map(|(a, b)| plain(*a, *b, 51)).collect();
        assert_eq!(half.pixels(), expected);
    }

    #[test]
    fn layers_of_other_sizes_are_refused() {
        let matte = Matte::of_luma(&noise(6, 5));
        let error = noise(6, 5).composite(&noise(5, 6), &matte).unwrap_err();
        assert!(error.to_string().contains("5x6"), "{error}");
        assert!(noise(5, 5).composite(&noise(5, 5), &matte).is_err());
    }
}
