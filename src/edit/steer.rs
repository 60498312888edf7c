//! Who has a say between the steps of a walk.

use candle_core::Tensor;

use crate::{
    error::Result,
    model::attention::{AttentionControl, Untouched},
};

/// What an edit does around each step of a walk.
pub trait Steer: AttentionControl {
    /// Step `step` begins at the latents (rows, 4, h, w).
    fn begin(&mut self, step: usize, latent: &Tensor) -> Result<()>;

    /// The latents (rows, 4, h, w) that the step led to, changed or not.
    fn finish(&mut self, latent: Tensor) -> Result<Tensor>;
}

impl Steer for Untouched {
    fn begin(&mut self, _: usize, _: &Tensor) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, latent: Tensor) -> Result<Tensor> {
        Ok(latent)
    }
}
