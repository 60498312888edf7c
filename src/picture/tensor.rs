//! Conversion of pictures to and from tensors.

use candle_core::{DType, Device, Tensor};

use super::{CHANNELS, Picture, Size};
use crate::error::{Error, Result};

impl Picture {
    /// The picture as an f32 tensor (1, 3, height, width) from -1 (dark) to 1, `x / 127.5 - 1`.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let Size { width, height } = self.size();
        let bytes = self.pixels().iter();
        let values = bytes.map(|byte| f32::from(*byte) / 127.5 - 1.0);
        let shape = (1, height, width, CHANNELS);
        let tensor = Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)?; // (1, h, w, 3)
        let planes = tensor.permute((0, 3, 1, 2))?.contiguous()?; // (1, 3, h, w)
        Ok(planes.to_device(device)?)
    }

    /// Creates a picture from a tensor (1, 3, height, width) or (3, height, width) from
    /// -1 to 1.
    ///
    /// Values are clamped and rounded to 8 bits; NaN is an error.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let planes = match tensor.rank() {
            4 => tensor.squeeze(0)?, // (3, h, w)
            _ => tensor.clone(),
        };
        let (CHANNELS, height, width) = planes.dims3()? else {
            let reason = format!("{:?} is not a picture of three channels", tensor.shape());
            return Err(Error::Tensor(candle_core::Error::Msg(reason)));
        };
        let rows = planes.permute((1, 2, 0))?.flatten_all()?; // (h * w * 3)
        let values: Vec<f32> = rows.to_dtype(DType::F32)?.to_vec1()?;
        let pixels = values.into_iter().map(byte).collect::<Result<_>>()?;
        Self::new(Size::new(width, height), pixels)
    }
}

/// A value from -1 to 1 as 8 bits, with ties to even as in `NumPy`.
fn byte(value: f32) -> Result<u8> {
    if value.is_nan() {
        let reason = "the network produced values that are not numbers: its weights are damaged, \
                      or overflow in this type";
        return Err(Error::Tensor(candle_core::Error::Msg(reason.into())));
    }
    let unit = (value / 2.0 + 0.5).clamp(0.0, 1.0);
    Ok((255.0 * unit).round_ties_even() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::noise;

    fn tensor(values: &[f32]) -> Tensor {
        let (width, rest) = (values.len() / CHANNELS, values.len() % CHANNELS);
        assert_eq!(rest, 0);
        Tensor::from_slice(values, (CHANNELS, 1, width), &Device::Cpu).unwrap()
    }

    #[test]
    fn a_tensor_holds_the_channels_as_planes() {
        let picture = Picture::new(Size::new(2, 1), vec![0, 51, 102, 153, 204, 255]).unwrap();
        let tensor = picture.to_tensor(&Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 1, 2]);
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        // (np.float32([0, 153, 51, 204, 102, 255]) / 127.5 - 1).tolist()
        assert_eq!(values, [-1.0, 0.200_000_05, -0.6, 0.6, -0.199_999_99, 1.0]);
    }

    #[test]
    fn every_level_survives_the_way_there_and_back() {
        let levels = (0..=255).flat_map(|level| [level; CHANNELS]).collect();
        let grey = Picture::new(Size::new(32, 8), levels).unwrap();
        for picture in [grey, noise(7, 5)] {
            let tensor = picture.to_tensor(&Device::Cpu).unwrap();
            assert_eq!(Picture::from_tensor(&tensor).unwrap(), picture);
            let planes = tensor.squeeze(0).unwrap();
            assert_eq!(Picture::from_tensor(&planes).unwrap(), picture);
        }
    }

    #[test]
    fn values_are_rounded_and_clamped() {
        let near = |level: f32| level / 127.5 - 1.0;
        let values = [near(3.4), near(3.6), f32::INFINITY, -9.0, 9.0, 0.0];
        let picture = Picture::from_tensor(&tensor(&values)).unwrap();
        // Planes to pixels: the values 0, 2, 4 are the first pixel.
        assert_eq!(picture.pixels(), [3, 255, 255, 4, 0, 128]);
    }

    #[test]
    fn values_that_are_not_numbers_are_an_error() {
        let error = Picture::from_tensor(&tensor(&[0.0, f32::NAN, 0.0])).unwrap_err();
        assert!(error.to_string().contains("not numbers"), "{error}");
    }

    #[test]
    fn a_tensor_of_another_shape_is_an_error() {
        for shape in [vec![1, 4, 2, 2], vec![2, 3, 2, 2], vec![3, 4]] {
            let tensor = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            assert!(Picture::from_tensor(&tensor).is_err());
        }
    }
}
