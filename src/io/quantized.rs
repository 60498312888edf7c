//! Weights in 8 bits, as compressed-tensors stores them (`int-quantized`, one scale per output
//! channel): beside `NAME`, signed bytes (rows, ..), lies `NAME_scale`, f32 (rows, 1). A weight is
//! its byte times the scale of its row.

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, View as _, tensor::TensorView};

use super::tensors::Entry;
use crate::error::{Error, Result};

/// Tensors with fewer values are not worth a scale per row.
const LEAST: usize = 1 << 10;

/// What the name of a tensor's scales ends with.
const SCALE: &str = "_scale";

/// The name of the scales of a tensor.
pub(super) fn scale_of(name: &str) -> String {
    format!("{name}{SCALE}")
}

/// The tensor, if any, whose scales have this name.
pub(super) fn scaled_by(name: &str) -> Option<&str> {
    name.strip_suffix(SCALE)
}

/// The weights (rows, ..) of signed bytes and the scales of their rows, in f32.
pub(super) fn dequantized(bytes: &TensorView, scale: &TensorView) -> Result<Tensor, String> {
    let (rows, shape) = (bytes.shape().first().copied().unwrap_or(1), bytes.shape());
    let (scales, rest) = scale.data().as_chunks();
    if scale.dtype() != Dtype::F32 || scales.len() != rows || !rest.is_empty() {
        return Err(format!("its scales are not {rows} values of f32"));
    }
    let columns = bytes.data().len().checked_div(rows).unwrap_or(0).max(1);
    let rows = bytes.data().chunks(columns).zip(scales);
    let values = rows.flat_map(|(row, scale)| {
        let scale = f32::from_le_bytes(*scale);
        row.iter()
            .map(move |&byte| f32::from(byte.cast_signed()) * scale)
    });
    Tensor::from_vec(values.collect(), shape, &Device::Cpu).map_err(|error| error.to_string())
}

/// A tensor as it is stored: matrices and filters in 8 bits, other numbers in f16, integers as
/// they are.
pub(super) fn entries(name: &str, tensor: &Tensor) -> Result<Vec<Entry<'static>>> {
    let entry = |name: String, dtype, shape: &[usize], bytes: Vec<u8>| Entry {
        name,
        dtype,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    };
    let shape = tensor.dims();
    let is_small = shape.len() < 2 || tensor.elem_count() < LEAST;
    if is_small || !tensor.dtype().is_float() {
        let stored = match tensor.dtype().is_float() {
            true => tensor.to_dtype(DType::F16)?,
            false => tensor.clone(),
        };
        let stored = stored.to_device(&Device::Cpu)?.contiguous()?;
        let bytes = stored.data().into_owned();
        return Ok(vec![entry(
            name.into(),
            stored.dtype().into(),
            shape,
            bytes,
        )]);
    }
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?;
    let values = values.to_vec1::<f32>()?;
    if !values.iter().all(|x| x.is_finite()) {
        let reason = format!("tensor {name:?} has weights that are not finite");
        return Err(Error::setting(reason));
    }
    let rows = values.chunks(values.len() / shape[0]);
    let scales: Vec<_> = rows.clone().map(scale).collect();
    let bytes = rows.zip(&scales).flat_map(|(row, scale)| {
        let byte = move |x: &f32| ((x / scale).round() as i8).cast_unsigned();
        row.iter().map(byte)
    });
    let bytes = bytes.collect();
    let of_scales = scales.iter().flat_map(|scale| scale.to_le_bytes());
    let (name, scale_name) = (name.to_owned(), scale_of(name));
    let scales = entry(scale_name, Dtype::F32, &[shape[0], 1], of_scales.collect());
    Ok(vec![entry(name, Dtype::I8, shape, bytes), scales])
}

/// The scale by which the largest value of a row is 127.
fn scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    match largest > 0.0 {
        true => largest / 127.0,
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::io::{Checkpoint, Existing, write_quantized};

    fn waves(shape: &[usize]) -> Tensor {
        let wave = |i| (i as f32 * 0.37).sin() * (1.0 + (i / 300) as f32);
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        x.to_vec1().unwrap()
    }

    #[test]
    fn weights_come_back_within_half_a_step_of_their_row() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let zeros = Tensor::zeros((2, 600), DType::F32, &Device::Cpu).unwrap();
        let written = [
            ("filter.weight", waves(&[6, 40, 3, 3])),
            ("nothing.weight", zeros),
            ("filter.bias", waves(&[2000])),
            ("small.weight", waves(&[4, 4])),
        ];
        let named = written.clone().map(|(name, x)| (name.to_owned(), x));
        write_quantized(&file, &named.to_vec(), HashMap::new(), Existing::Keep).unwrap();
        let bytes = std::fs::read(&file).unwrap().len();
        assert!(bytes < 2160 + 1200 + 4000 + 32 + 32 + 800, "{bytes} bytes");
        let checkpoint = Checkpoint::open(&file).unwrap();
        assert_eq!(
            checkpoint.names(),
            [
                "filter.bias",
                "filter.weight",
                "nothing.weight",
                "small.weight"
            ]
        );
        for (name, x) in &written {
            assert_eq!(checkpoint.shape(name).unwrap(), x.dims());
            let read = checkpoint.load(name, &Device::Cpu).unwrap();
            assert_eq!(read.dtype(), checkpoint.dtype(name).unwrap());
            let (read, x) = (values(&read), values(x));
            for (row, read) in x.chunks(360).zip(read.chunks(360)) {
                let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.501 / 127.0 * largest;
                assert!(row.iter().zip(read).all(close), "{name}");
            }
        }
    }

    #[test]
    fn integers_stay_and_what_is_not_finite_is_an_error() {
        let ids = Tensor::arange(0i64, 2048, &Device::Cpu).unwrap();
        let ids = ids.reshape((2, 1024)).unwrap();
        let [entry] = &entries("ids", &ids).unwrap()[..] else {
            panic!("one tensor");
        };
        assert_eq!((entry.dtype, entry.bytes.len()), (Dtype::I64, 8 * 2048));
        let wrong = (waves(&[4, 400]) / 0.0).unwrap();
        let error = entries("w", &wrong).err().unwrap().to_string();
        assert!(
            error.contains("\"w\"") && error.contains("finite"),
            "{error}"
        );
    }

    #[test]
    fn bytes_without_fitting_scales_are_errors() {
        let bytes = [1u8, 255, 3, 4];
        let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
        let weights = view(Dtype::I8, &[2, 2], &bytes).unwrap();
        let scales = [0.5f32, 2.0].map(f32::to_le_bytes).concat();
        let of_rows = view(Dtype::F32, &[2, 1], &scales).unwrap();
        let read = dequantized(&weights, &of_rows).unwrap();
        assert_eq!(values(&read), [0.5, -0.5, 6.0, 8.0]);
        let one = view(Dtype::F32, &[1, 1], &scales[..4]).unwrap();
        let halves = view(Dtype::F16, &[2, 2], &scales).unwrap();
        for wrong in [one, halves] {
            let error = dequantized(&weights, &wrong).unwrap_err();
            assert!(error.contains("2 values of f32"), "{error}");
        }
    }
}
