//! The tensors of a checkpoint for the networks of candle-transformers.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use crate::{
    io::Checkpoint,
    nn::{Placement, Weights},
};

struct Named(Checkpoint);

/// A checkpoint as candle-transformers reads it, in f32. Its errors are those of [`Weights`].
pub(super) fn builder(checkpoint: Checkpoint, device: &Device) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Named(checkpoint)), DType::F32, device.clone())
}

impl SimpleBackend for Named {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, on: &Device) -> Result<Tensor> {
        let placement = Placement::new(dtype, on.clone());
        let weights = Weights::new(&self.0, &placement);
        weights
            .tensor(name, shape)
            .map_err(candle_core::Error::wrap)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, on: &Device) -> Result<Tensor> {
        let tensor = self.0.load(name, on).map_err(candle_core::Error::wrap)?;
        tensor.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.shape(name).is_some()
    }
}
