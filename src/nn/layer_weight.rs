//! A weight on its way from a file to a backend.

use candle_core::{DType, Device, Result, Shape, Tensor, safetensors::Load};
use safetensors::tensor::TensorView;

use super::LoraDelta;
use crate::kernel::{Values, with_values};

/// A weight as it is stored, and what is to be added to it. A backend reads it in one pass, or
/// takes the tensor that [`Ops::merge`](super::ops::Ops::merge) makes of it.
#[derive(Debug)]
pub struct LayerWeight<'a> {
    stored: Stored<'a>,
    shape: Shape,
    /// Up (outputs, rank) and down (rank, values per output): f32, contiguous, on the device.
    factors: Option<[Tensor; 2]>,
    dtype: DType,
}

#[derive(Debug)]
enum Stored<'a> {
    Tensor(Tensor),
    /// The bytes of a mapped file, for a device.
    File(TensorView<'a>, Device),
}

/// A tensor that is not changed.
impl From<Tensor> for LayerWeight<'_> {
    fn from(tensor: Tensor) -> Self {
        Self {
            shape: tensor.shape().clone(),
            factors: None,
            dtype: tensor.dtype(),
            stored: Stored::Tensor(tensor),
        }
    }
}

impl<'a> LayerWeight<'a> {
    /// A tensor of a mapped file, which is read on a device.
    pub(super) fn mapped(view: TensorView<'a>, device: &Device) -> Result<Self> {
        Ok(Self {
            shape: Shape::from(view.shape()),
            factors: None,
            dtype: view.dtype().try_into()?,
            stored: Stored::File(view, device.clone()),
        })
    }

    /// The same in a type, to which sums are rounded.
    pub fn in_dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The same in another shape of as many values.
    pub(super) fn reshaped(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Self { shape, ..self }
    }

    /// Adds a LoRA delta to the weight (outputs, ..), or returns `None` if it does not match.
    pub fn plus(self, delta: &LoraDelta) -> Result<Option<Self>> {
        let factors = delta.factors_of(&self.shape, self.device())?;
        Ok(factors.map(|factors| Self {
            factors: Some(factors),
            ..self
        }))
    }

    /// (outputs, ..).
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The type of the merged weight.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The factors of what is added, up (outputs, rank) and down (rank, values per output): f32,
    /// contiguous, on the weight's device.
    pub fn factors(&self) -> Option<[&Tensor; 2]> {
        self.factors.as_ref().map(<[Tensor; 2]>::each_ref)
    }

    /// The device on which the weight is read.
    pub(super) fn device(&self) -> &Device {
        match &self.stored {
            Stored::Tensor(tensor) => tensor.device(),
            Stored::File(_, device) => device,
        }
    }

    /// Whether it is trained.
    pub fn is_tracked(&self) -> bool {
        matches!(&self.stored, Stored::Tensor(tensor) if tensor.track_op())
    }

    /// Whether the merged weight is the stored one.
    pub fn is_stored(&self) -> bool {
        let dtype = match &self.stored {
            Stored::Tensor(tensor) => Ok(tensor.dtype()),
            Stored::File(view, _) => view.dtype().try_into(),
        };
        self.factors.is_none() && dtype.is_ok_and(|dtype| dtype == self.dtype)
    }

    /// The weight as it is stored, without what is added.
    pub fn tensor(&self) -> Result<Tensor> {
        let tensor = match &self.stored {
            Stored::Tensor(tensor) => tensor.clone(),
            Stored::File(view, device) => view.load(device)?,
        };
        tensor.reshape(&self.shape)
    }

    /// Calls `work` with the stored values, which are on a CPU: those of the file without a copy
    /// if possible.
    pub fn with_values<R>(&self, work: impl FnOnce(Values) -> Result<R>) -> Result<R> {
        if let Stored::File(view, _) = &self.stored
            && let Ok(dtype) = view.dtype().try_into()
            && let Some(values) = Values::of_bytes(dtype, view.data())
        {
            return work(values);
        }
        with_values(&self.tensor()?, work)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::safetensors::save;

    use super::*;
    use crate::{
        io::Checkpoint,
        nn::ops::{Composed, Ops, Packed},
    };

    fn waves(shape: &[usize], phase: f32) -> Tensor {
        let wave = |i: usize| (i as f32 * 0.7 + phase).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn bytes(x: &Tensor) -> Vec<u32> {
        let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        let values = x.to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    /// A weight is the same one from a mapped file and in memory, for every type of both.
    #[test]
    fn weights_of_files_are_those_of_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        let types = [DType::F32, DType::F16, DType::BF16];
        let stored = types.map(|dtype| waves(&[7, 5, 3, 3], 0.3).to_dtype(dtype).unwrap());
        let named = types.map(|dtype| format!("{dtype:?}"));
        let tensors: HashMap<_, _> = named.iter().cloned().zip(stored.clone()).collect();
        save(&tensors, &file).unwrap();
        let checkpoint = Checkpoint::open(file).unwrap();
        let delta = LoraDelta {
            down: waves(&[3, 5, 3, 3], 0.1),
            up: waves(&[7, 3, 1, 1], 0.5),
            scale: 0.25,
        };
        for (name, tensor) in named.iter().zip(&stored) {
            for dtype in types {
                let mapped = || {
                    let view = checkpoint.mapped(name).unwrap();
                    let mapped = LayerWeight::mapped(view, &Device::Cpu).unwrap();
                    mapped.in_dtype(dtype)
                };
                let held = || LayerWeight::from(tensor.clone()).in_dtype(dtype);
                for ops in [&Packed::F32 as &dyn Ops, &Composed] {
                    let [found, expected] = [mapped(), held()].map(|x| ops.merge(&x).unwrap());
                    assert_eq!(found.dtype(), dtype);
                    assert_eq!(found.dims(), [7, 5, 3, 3]);
                    assert_eq!(bytes(&found), bytes(&expected));
                    assert_eq!(bytes(&found), bytes(&tensor.to_dtype(dtype).unwrap()));
                    let [found, expected] = [mapped(), held()].map(|x| {
                        let sum = x.plus(&delta).unwrap().unwrap();
                        ops.merge(&sum).unwrap()
                    });
                    assert_eq!(bytes(&found), bytes(&expected));
                    assert_ne!(bytes(&found), bytes(&tensor.to_dtype(dtype).unwrap()));
                }
            }
        }
    }
}
