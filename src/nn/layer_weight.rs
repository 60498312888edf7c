//! A weight on its way from a file to a backend.

use candle_core::{DType, Device, Result, Shape, Tensor, safetensors::Load};
use safetensors::tensor::TensorView;

use super::LoraDelta;
use crate::kernel::{StoredValues, with_values};

/// A weight as it is stored, and what is to be added to it. A backend reads it in one pass, or
/// takes the tensor that [`Ops::merge`](super::ops::Ops::merge) makes of it.
#[derive(Debug)]
pub struct LayerWeight<'a> {
    source: Source<'a>,
    shape: Shape,
    /// Up (outputs, rank) and down (rank, values per output): f32, contiguous, on the device.
    factors: Option<[Tensor; 2]>,
    dtype: DType,
}

#[derive(Debug)]
enum Source<'a> {
    Tensor(Tensor),
    /// The bytes of a mapped file, their type, and the device that they are for.
    File(TensorView<'a>, DType, Device),
}

/// A tensor that is not changed.
impl From<Tensor> for LayerWeight<'_> {
    fn from(tensor: Tensor) -> Self {
        Self {
            shape: tensor.shape().clone(),
            factors: None,
            dtype: tensor.dtype(),
            source: Source::Tensor(tensor),
        }
    }
}

impl<'a> LayerWeight<'a> {
    /// A tensor of a mapped file, which is read on a device.
    pub(super) fn mapped(view: TensorView<'a>, device: &Device) -> Result<Self> {
        let dtype = view.dtype().try_into()?;
        Ok(Self {
            shape: Shape::from(view.shape()),
            factors: None,
            dtype,
            source: Source::File(view, dtype, device.clone()),
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
        match &self.source {
            Source::Tensor(tensor) => tensor.device(),
            Source::File(.., device) => device,
        }
    }

    /// Whether it is trained.
    pub fn is_tracked(&self) -> bool {
        matches!(&self.source, Source::Tensor(tensor) if tensor.track_op())
    }

    /// Whether the merged weight is the stored one.
    pub fn is_stored(&self) -> bool {
        let dtype = match &self.source {
            Source::Tensor(tensor) => tensor.dtype(),
            Source::File(_, dtype, _) => *dtype,
        };
        self.factors.is_none() && dtype == self.dtype
    }

    /// The weight as it is stored, without what is added; a trained one is the variable.
    pub fn tensor(&self) -> Result<Tensor> {
        let tensor = match &self.source {
            Source::Tensor(tensor) => tensor.clone(),
            Source::File(view, _, device) => view.load(device)?,
        };
        match tensor.shape() == &self.shape {
            true => Ok(tensor),
            false => tensor.reshape(&self.shape),
        }
    }

    /// Calls `work` with the stored values, which are on a CPU: those of the file without a copy
    /// if possible.
    pub fn with_values<R>(&self, work: impl FnOnce(StoredValues) -> Result<R>) -> Result<R> {
        if let Source::File(view, dtype, _) = &self.source
            && let Some(values) = StoredValues::of_bytes(*dtype, view.data())
        {
            return work(values);
        }
        with_values(&self.tensor()?, work)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        path::{Path, PathBuf},
    };

    use candle_core::safetensors::save;

    use super::*;
    use crate::{
        io::{Checkpoint, View},
        kernel::{Arithmetic, Unit},
        nn::{
            Epilogue,
            ops::{Composed, Ops, Packed},
        },
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

    /// A safetensors file of one tensor whose values begin `shift` bytes behind a multiple of 8.
    fn file(folder: &Path, dtype: &str, shape: &[usize], bytes: &[u8], shift: usize) -> PathBuf {
        let (start, end) = (shift, shift + bytes.len());
        let mut header = serde_json::json!({
            "weight": { "dtype": dtype, "shape": shape, "data_offsets": [start, end] },
        });
        if shift > 0 {
            header["before"] =
                serde_json::json!({ "dtype": "U8", "shape": [shift], "data_offsets": [0, shift] });
        }
        let mut header = header.to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let length = (header.len() as u64).to_le_bytes();
        let all = [&length[..], header.as_bytes(), &vec![7; shift], bytes].concat();
        let file = folder.join(format!("{dtype}-{shift}.safetensors"));
        std::fs::write(&file, all).unwrap();
        file
    }

    /// What a linear layer of the weight computes of the unit vectors.
    fn packed(ops: &dyn Ops, weight: &LayerWeight) -> Vec<u32> {
        let packed = ops.pack_linear(weight).unwrap();
        let unit = Tensor::eye(weight.shape().dims()[1], DType::F32, &Device::Cpu).unwrap();
        bytes(&ops.linear(&unit, &packed, Epilogue::default()).unwrap())
    }

    #[test]
    fn values_of_every_type_are_read_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<_> = (0..12 * 40).map(|i| (i as f32 * 0.7).sin()).collect();
        let bf16 = |x: &f32| half::bf16::from_f32(*x);
        let stored: [(&str, Vec<u8>); 4] = [
            ("F32", values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            (
                "F64",
                values
                    .iter()
                    .flat_map(|x| f64::from(*x).to_le_bytes())
                    .collect(),
            ),
            (
                "BF16",
                values.iter().flat_map(|x| bf16(x).to_le_bytes()).collect(),
            ),
            (
                "I64",
                (0..12 * 40i64)
                    .flat_map(|i| (i % 9).to_le_bytes())
                    .collect(),
            ),
        ];
        let bf16 = Box::leak(Box::new(Packed(Arithmetic::Bf16(Unit::Emulated))));
        for (dtype, bytes) in &stored {
            for shift in [0, 1, 2, 4] {
                let path = file(folder.path(), dtype, &[12, 40], bytes, shift);
                let checkpoint = Checkpoint::open(path).unwrap();
                let tensor = checkpoint.load("weight", &Device::Cpu).unwrap();
                let view = checkpoint.mapped("weight").unwrap();
                let mapped = LayerWeight::mapped(view, &Device::Cpu).unwrap();
                let mapped = mapped.in_dtype(DType::F32);
                let held = LayerWeight::from(tensor).in_dtype(DType::F32);
                for ops in [&Packed::F32, &*bf16] {
                    assert_eq!(packed(ops, &mapped), packed(ops, &held), "{dtype} {shift}");
                }
            }
        }
    }

    #[test]
    fn parts_and_transposes_are_read_as_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<u8> = (0..6 * 4).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let path = file(folder.path(), "F32", &[6, 4], &values, 0);
        let view = || View::of("weight");
        let views = [
            ("whole", view()),
            ("rows", view().rows(2..4)),
            ("turned", view().transposed()),
        ];
        let named = views.map(|(name, view)| (name.to_owned(), view));
        let checkpoint = Checkpoint::open(path).unwrap().seen_as(named.into());
        let mapped = |name| checkpoint.mapped(name).is_some();
        assert_eq!(
            ["whole", "rows", "turned", "none"].map(mapped),
            [true, false, false, false]
        );
        let placement = crate::nn::Placement::cpu_f32();
        let weights = crate::nn::Weights::new(&checkpoint, &placement);
        let read = |name, shape: (usize, usize)| {
            let tensor = weights.tensor(name, shape).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(read("rows", (2, 4)), [8., 9., 10., 11., 12., 13., 14., 15.]);
        assert_eq!(read("turned", (4, 6))[..4], [0., 4., 8., 12.]);
    }

    #[test]
    fn a_trained_weight_is_the_variable_that_it_is() {
        let var = candle_core::Var::from_tensor(&waves(&[3, 4], 0.3)).unwrap();
        let weight = LayerWeight::from(var.as_tensor().clone());
        for ops in [&Packed::F32 as &dyn Ops, &Composed] {
            assert_eq!(ops.merge(&weight).unwrap().id(), var.as_tensor().id());
        }
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
