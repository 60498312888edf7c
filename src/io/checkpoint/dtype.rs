//! The stored types of tensors.

use candle_core::DType;
use safetensors::Dtype;

use super::Checkpoint;
use crate::error::Result;

impl Checkpoint {
    /// The type of a tensor returned by [`load`](Self::load).
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let missing = || self.tensor_fault(name, "it is missing");
        let stored = &self.views.get(name).ok_or_else(missing)?.name;
        match (self.tensors.mapped(stored), self.tensors.pickled(stored)) {
            (Some(view), _) => known(view.dtype()).map_err(|e| self.tensor_fault(name, &e)),
            (None, Some((_, info))) => Ok(info.dtype),
            (None, None) => Err(missing()),
        }
    }
}

/// Candle's type for one of safetensors, wider for some of them.
fn known(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        Dtype::U16 => Ok(DType::U32),
        // Candle does not support their values.
        Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2 | Dtype::F8_E8M0 => Err(dtype),
        other => DType::try_from(other).map_err(|_| other),
    }
    .map_err(|dtype| format!("its type {dtype} is not supported"))
}
