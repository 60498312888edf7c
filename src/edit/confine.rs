//! A mask that a person drew: the edit may act only inside it.

use candle_core::Tensor;

use crate::error::{Error, Result};

/// Keeps the first row's latent, the source's, outside of a mask.
#[derive(Clone, Debug)]
pub struct Confine {
    /// 1 where the edit may act, 0 where it may not: (1, 1, h, w).
    mask: Tensor,
}

impl Confine {
    /// A mask (1, 1, h, w) from 0 to 1, of a latent's height and width, on the
    /// device of the walk.
    pub fn new(mask: Tensor) -> Self {
        Self { mask }
    }

    /// The latents (rows, 4, h, w), with the first row's where the mask is 0.
    pub fn confined(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        if self.mask.dims() != [1, 1, height, width] {
            return Err(Error::setting(format!(
                "a mask of {:?} does not cover latents of {height}x{width}",
                self.mask.dims()
            )));
        }
        let mask = self.mask.to_dtype(x.dtype())?;
        let source = x.narrow(0, 0, 1)?;
        let change = x.broadcast_sub(&source)?.broadcast_mul(&mask)?;
        Ok(change.broadcast_add(&source)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_source_stays_outside_of_the_mask() {
        let x = Tensor::new(&[[[[1f32, 1.]]], [[[5., 9.]]]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[[[0f32, 0.75]]]], &Device::Cpu).unwrap();
        let confined = Confine::new(mask).confined(&x).unwrap();
        let values: Vec<f32> = confined.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values, [1., 1., 1., 7.]);
    }

    #[test]
    fn a_mask_of_another_size_is_refused() {
        let x = Tensor::zeros((2, 4, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mask = Tensor::ones((1, 1, 2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(Confine::new(mask).confined(&x).is_err());
    }
}
