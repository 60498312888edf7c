//! Tensors that are computed when they are written.

use std::fmt;

use candle_core::{DType, Device, Tensor};
use safetensors::View;

use super::narrow;
use crate::{error::Result, io::Checkpoint};

/// A tensor computed from those of a checkpoint when it is written.
pub(super) struct Lazy<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// The dtype it is written in.
    pub(super) dtype: DType,
    checkpoint: &'a Checkpoint,
    make: Box<dyn Fn() -> Result<Tensor> + 'a>,
}

impl<'a> Lazy<'a> {
    /// A tensor of the checkpoint.
    pub(super) fn stored(checkpoint: &'a Checkpoint, name: &str) -> Result<Self> {
        let stored = name.to_owned();
        Ok(Self {
            shape: checkpoint.shape(name).unwrap_or_default(),
            dtype: checkpoint.dtype(name)?,
            name: name.into(),
            checkpoint,
            make: Box::new(move || checkpoint.load(&stored, &Device::Cpu)),
        })
    }

    /// A scalar that is not a tensor of the checkpoint.
    pub(super) fn number(checkpoint: &'a Checkpoint, name: String, value: f64) -> Self {
        Self {
            name,
            shape: Vec::new(),
            dtype: DType::F32,
            checkpoint,
            make: Box::new(move || Ok(Tensor::new(value as f32, &Device::Cpu)?)),
        }
    }

    /// The same under another name.
    pub(super) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The same in another dtype; integer tensors are unchanged.
    pub(super) fn in_type(self, dtype: DType) -> Self {
        match self.dtype.is_float() {
            true => Self { dtype, ..self },
            false => self,
        }
    }

    /// The result of `change`, which must keep the shape.
    pub(super) fn changed(self, change: impl Fn(&Tensor) -> Result<Tensor> + 'a) -> Self {
        let make = self.make;
        Self {
            make: Box::new(move || change(&make()?)),
            ..self
        }
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let made = (self.make)()?;
        let tensor = made.to_dtype(self.dtype)?;
        let is_changed = made.dtype() != self.dtype;
        if let Some(value) = is_changed
            .then(|| narrow::lost(&made, &tensor))
            .transpose()?
            .flatten()
        {
            let dtype = self.dtype.as_str();
            let reason = format!("its value {value} is too large for {dtype}: choose a wider type");
            return Err(self.checkpoint.tensor_fault(&self.name, &reason));
        }
        Ok(tensor.data().into_owned())
    }
}

impl fmt::Debug for Lazy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype, self.shape)
    }
}
