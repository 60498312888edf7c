//! The stored types of tensors.

use candle_core::DType;
use safetensors::{Dtype, tensor::TensorView};

use super::{Checkpoint, MISSING, Tensors};
use crate::error::Result;

impl Checkpoint {
    /// The type of a tensor returned by [`load`](Self::load).
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let fault = |reason: String| self.tensor_fault(name, &reason);
        let missing = || fault(MISSING.into());
        let stored = &self.views.get(name).ok_or_else(missing)?.name;
        let found = match &self.tensors {
            Tensors::Pickled(shards) => shards.iter().find_map(|shard| shard.dtype(stored)),
            other => other.mapped(stored).map(|view| known(view.dtype())),
        };
        found.ok_or_else(missing)?.map_err(fault)
    }

    /// The bytes of a tensor of a safetensors file or of the program, or `None` for one that
    /// [`load`](Self::load) alone reads or refuses: in another format, as a part of another one
    /// or its transpose, in 8 bits with scales, or of a type that candle does not support.
    pub fn mapped(&self, name: &str) -> Option<TensorView<'_>> {
        let view = self.views.get(name)?;
        let whole = view.rows.is_none() && !view.transposed;
        let tensor = self.tensors.mapped(&view.name).filter(|_| whole)?;
        let is_plain = tensor.dtype() != Dtype::I8 && known(tensor.dtype()).is_ok();
        is_plain.then_some(tensor)
    }
}

/// Candle's type for one of safetensors; none stands for another, so that a converted file
/// holds what the original held.
pub(super) fn known(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        // Weights in 8 bits are read with their scales.
        Dtype::I8 => Ok(DType::F32),
        // Candle does not support their values.
        Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2 | Dtype::F8_E8M0 => Err(dtype),
        other => DType::try_from(other).map_err(|_| other),
    }
    .map_err(|dtype| format!("its type {dtype} is not supported"))
}
