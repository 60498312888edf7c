//! Writing of safetensors files.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{Device, Tensor};
use safetensors::{Dtype, View};
use serde_json::{Map, Value, json};

use super::{Existing, quantized, write_file};
use crate::error::Result;

/// The metadata of a safetensors file.
pub type Metadata = HashMap<String, String>;

/// Named tensors, sorted by name.
pub type Tensors = Vec<(String, Tensor)>;

/// Writes tensors to a safetensors file atomically. Equal values give equal files.
pub fn write_tensors(
    file: &Path,
    tensors: &Tensors,
    metadata: Metadata,
    existing: Existing,
) -> Result<()> {
    write_file(file, &encoded_tensors(tensors, &metadata)?, existing)
}

/// Writes weights to a safetensors file atomically: matrices and filters in 8 bits with a scale
/// for each row, in the names and layout of compressed-tensors, other numbers in f16, integers as
/// they are. [`Checkpoint`](super::Checkpoint) reads what was 8 bits as f32. Weights that are not
/// finite are an error.
pub fn write_quantized(
    file: &Path,
    tensors: &Tensors,
    metadata: Metadata,
    existing: Existing,
) -> Result<()> {
    let entries = tensors
        .iter()
        .map(|(name, tensor)| quantized::entries(name, tensor));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    let entries = entries.into_iter().flatten().collect();
    write_file(file, &encoded(entries, &metadata), existing)
}

/// The bytes of a safetensors file. Equal values give equal bytes.
pub fn encoded_tensors(tensors: &Tensors, metadata: &Metadata) -> Result<Vec<u8>> {
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)));
    let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
    let entries = tensors
        .iter()
        .map(|(name, tensor)| Entry::of((*name).clone(), tensor));
    Ok(encoded(entries.collect(), metadata))
}

/// A tensor as a file holds it.
pub(super) struct Entry<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Cow<'a, [u8]>,
}

impl<'a> Entry<'a> {
    /// A contiguous tensor on a CPU as it is.
    pub(super) fn of(name: String, tensor: &'a Tensor) -> Self {
        Self {
            name,
            dtype: tensor.dtype().into(),
            shape: tensor.dims().to_vec(),
            bytes: tensor.data(),
        }
    }
}

fn encoded(mut entries: Vec<Entry>, metadata: &Metadata) -> Vec<u8> {
    entries.sort_by(|a, b| by_width(a.dtype, &a.name).cmp(&by_width(b.dtype, &b.name)));
    let table = entries.iter();
    let table = table.map(|entry| (&entry.name[..], entry.dtype, &entry.shape[..]));
    let mut bytes = header(table, metadata);
    for entry in &entries {
        bytes.extend_from_slice(&entry.bytes);
    }
    bytes
}

/// The order of tensors in a file: wide types first, so that each is aligned.
pub(crate) fn by_width(dtype: Dtype, name: &str) -> (Reverse<usize>, &str) {
    (Reverse(dtype.bitsize()), name)
}

/// The header of a safetensors file, preceded by its length: the metadata, and the name,
/// type and shape of each tensor in the order of their bytes.
pub(crate) fn header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize])>,
    metadata: &Metadata,
) -> Vec<u8> {
    let metadata: BTreeMap<_, _> = metadata.iter().collect();
    let mut table = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut begin = 0;
    for (name, dtype, shape) in tensors {
        let end = begin + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let entry = json!({
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [begin, end],
        });
        table.insert(name.into(), entry);
        begin = end;
    }
    let mut text = Value::Object(table).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = text.len() as u64;
    [&length.to_le_bytes()[..], &text].concat()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn the_same_values_make_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let x = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let bytes = |name: &str| {
            let notes = (0..20).map(|i| (format!("key {i}"), format!("\"value\" {i} ü")));
            let file = folder.path().join(name);
            write_tensors(
                &file,
                &vec![("x".into(), x.clone())],
                notes.collect(),
                Existing::Keep,
            )
            .unwrap();
            std::fs::read(file).unwrap()
        };
        assert!(bytes("a") == bytes("b"));
        let (_, header) = SafeTensors::read_metadata(&bytes("c")).unwrap();
        let notes = header.metadata().clone().unwrap();
        assert_eq!(notes.len(), 20);
        assert_eq!(notes["key 7"], "\"value\" 7 ü");
    }
}
