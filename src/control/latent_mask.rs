//! A mask given by the user: the edit is restricted to its inside.

use candle_core::Tensor;

use super::masked;
use crate::{
    diffusion::WalkControl,
    error::{Error, Result},
    model::attention::AttentionControl,
};

/// Keeps the latent of the first row, the source, outside of a mask.
#[derive(Clone, Debug)]
pub struct LatentMask {
    mask: Tensor,
}

impl LatentMask {
    /// Creates a control from a mask (1, 1, h, w) of the latents' height and width, 1
    /// where the edit acts, 0 where it does not, on the device of the latents.
    pub fn new(mask: Tensor) -> Self {
        Self { mask }
    }
}

impl AttentionControl for LatentMask {}

impl WalkControl for LatentMask {
    fn finish(&mut self, x: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, height, width) = x.dims4()?;
        if self.mask.dims() != [1, 1, height, width] {
            return Err(Error::setting(format!(
                "a mask of shape {:?} does not match latents of {height}x{width}",
                self.mask.dims()
            )));
        }
        masked(x, &self.mask.to_dtype(x.dtype())?).map(Some)
    }

    fn reads_source(&self) -> bool {
        true
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
        let confined = LatentMask::new(mask).finish(&x).unwrap().unwrap();
        let values: Vec<f32> = confined.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values, [1., 1., 1., 7.]);
    }

    #[test]
    fn a_mask_of_another_size_is_refused() {
        let x = Tensor::zeros((2, 4, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mask = Tensor::ones((1, 1, 2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(LatentMask::new(mask).finish(&x).is_err());
    }
}
