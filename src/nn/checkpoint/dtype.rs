//! The types that tensors are stored in.

use candle_core::DType;
use safetensors::Dtype;

use super::{Checkpoint, Tensors};
use crate::error::Result;

impl Checkpoint {
    /// The type that [`load`](Self::load) gives a tensor in.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let view = self.views.as_ref().and_then(|views| views.get(name));
        let stored = view.map_or(name, |view| &view.name);
        let found = match &self.tensors {
            Tensors::Mapped(tensors) => tensors.get(stored).ok().map(|view| known(view.dtype())),
            Tensors::BuiltIn(tensors) => tensors.get(stored).ok().map(|view| known(view.dtype())),
            Tensors::Pickled(tensors) => {
                let info = tensors.tensor_infos().get(stored);
                info.map(|info| Ok(info.dtype))
            }
        };
        let found = found.unwrap_or_else(|| Err("it is missing".into()));
        found.map_err(|reason| self.fault(format!("tensor {name:?}: {reason}")))
    }
}

/// Candle's type for one of safetensors; it widens some of them.
fn known(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        Dtype::U16 => Ok(DType::U32),
        // Candle carries these along without knowing their values.
        Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2 | Dtype::F8_E8M0 => Err(dtype),
        other => DType::try_from(other).map_err(|_| other),
    }
    .map_err(|dtype| format!("its type {dtype} is not supported"))
}
