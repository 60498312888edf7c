//! Pictures as masks.

use candle_core::{Device, Tensor};

use super::{CHANNELS, Picture, Size, heat::grey};
use crate::error::Result;

impl Picture {
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

#[cfg(test)]
mod tests {
    use super::*;

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
