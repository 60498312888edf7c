//! Pictures as masks.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::{Rgba, RgbaImage};

use super::{CHANNELS, Picture, Size, decode::decoded, heat::grey};
use crate::error::Result;

impl Picture {
    /// Decodes a mask; `name` is used in error messages. It is read as
    /// [`decode`](Self::decode) does, except for transparency.
    ///
    /// A mask that was painted in one colour is its opacity, whatever the colour; one of
    /// several colours is composited over black.
    pub fn decode_mask(bytes: &[u8], name: &Path) -> Result<Self> {
        let (image, metadata) = decoded(bytes, name)?;
        let image = match image.color().has_alpha() {
            true => by_opacity(image.into_rgba8()).into(),
            false => image,
        };
        Self::flattened(image, metadata, name)
    }

    /// The luma, scaled to the size `to`: an f32 tensor (1, 1, height, width) from 0
    /// (black) to 1 (white).
    pub fn to_mask(&self, to: Size, device: &Device) -> Result<Tensor> {
        let scaled = self.resized(to);
        let (pixels, _) = scaled.pixels().as_chunks::<CHANNELS>();
        let values: Vec<f32> = pixels.iter().map(|pixel| grey(*pixel) / 255.0).collect();
        let Size { width, height } = scaled.size();
        let mask = Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu)?;
        Ok(mask.clamp(0.0, 1.0)?.to_device(device)?)
    }
}

/// A mask with transparency, if there is any, as an opaque one.
fn by_opacity(mut mask: RgbaImage) -> RgbaImage {
    let Some(Rgba([brush @ .., most])) = mask.pixels().max_by_key(|pixel| pixel.0[3]).copied()
    else {
        return mask;
    };
    if mask.pixels().all(|pixel| pixel.0[3] == u8::MAX) {
        return mask;
    }
    let is_plain = most == 0 || mask.pixels().all(|pixel| is_of(brush, *pixel));
    for pixel in mask.pixels_mut() {
        let Rgba([colour @ .., alpha]) = *pixel;
        let [red, green, blue] = match is_plain {
            true => [alpha; CHANNELS],
            false => colour.map(|value| over_black(value, alpha)),
        };
        *pixel = Rgba([red, green, blue, u8::MAX]);
    }
    mask
}

/// Whether a pixel has this colour, as closely as its opacity tells: programs that multiply
/// colours by it lose the rest.
fn is_of(brush: [u8; CHANNELS], Rgba([colour @ .., alpha]): Rgba<u8>) -> bool {
    let off = brush
        .iter()
        .zip(colour)
        .map(|(a, b)| u32::from(a.abs_diff(b)));
    off.max().unwrap_or(0) * u32::from(alpha) <= 255
}

/// A value composited over black, rounded.
fn over_black(value: u8, alpha: u8) -> u8 {
    ((u32::from(value) * u32::from(alpha) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::ImageFormat;

    use super::*;

    /// The reds of a mask that was painted in these pixels.
    fn painted(pixels: &[[u8; 4]]) -> Vec<u8> {
        let image = RgbaImage::from_raw(pixels.len() as u32, 1, pixels.concat()).unwrap();
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png).unwrap();
        let mask = Picture::decode_mask(png.get_ref(), Path::new("mask.png")).unwrap();
        mask.pixels().iter().step_by(CHANNELS).copied().collect()
    }

    #[test]
    fn a_mask_of_one_colour_is_its_opacity() {
        let expected = [0, 255, 7, 128];
        for [r, g, b] in [[255; 3], [0; 3], [200, 10, 10]] {
            let brush = |alpha| [r, g, b, alpha];
            // What is transparent may have any colour.
            let hidden = [[0, 0, 0, 0], [9, 99, 200, 0]];
            for nothing in hidden {
                let pixels = [nothing, brush(255), brush(7), brush(128)];
                assert_eq!(painted(&pixels), expected);
            }
        }
        // 10 * 7 / 255 is 0: multiplied by its opacity, the colour comes back as 0.
        assert_eq!(painted(&[[200, 10, 10, 255], [182, 0, 0, 7]]), [255, 7]);
        assert_eq!(painted(&[[255, 255, 255, 0], [0, 0, 0, 0]]), [0, 0]);
    }

    #[test]
    fn a_mask_of_several_colours_is_darkened_where_it_is_transparent() {
        let pixels = [
            [255, 255, 255, 255],
            [0, 0, 0, 255],
            [255, 255, 255, 51],
            [128, 128, 128, 0],
        ];
        assert_eq!(painted(&pixels), [255, 0, 51, 0]);
    }

    #[test]
    fn without_transparency_its_colours_count() {
        assert_eq!(painted(&[[0, 0, 0, 255], [0, 0, 0, 255]]), [0, 0]);
        assert_eq!(painted(&[[255, 255, 255, 255], [0, 0, 0, 255]]), [255, 0]);
    }

    #[test]
    fn white_is_one_and_black_is_none() {
        let pixels = [[255; 3], [0; 3], [255, 0, 0]].concat();
        let picture = Picture::new(Size::new(3, 1), pixels).unwrap();
        let mask = picture.to_mask(Size::new(3, 1), &Device::Cpu).unwrap();
        assert_eq!(mask.dims(), [1, 1, 1, 3]);
        let values: Vec<f32> = mask.flatten_all().unwrap().to_vec1().unwrap();
        for (value, expected) in values.iter().zip([1.0, 0.0, 0.299]) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
        let small = picture.to_mask(Size::new(1, 1), &Device::Cpu).unwrap();
        assert_eq!(small.dims(), [1, 1, 1, 1]);
    }
}
