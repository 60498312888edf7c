//! Writes safetensors files tensor by tensor.

use std::{cmp::Reverse, collections::BTreeMap, path::Path};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::Lazy;
use crate::{
    error::Result,
    io::{Growing, Metadata},
};

/// Writes a safetensors file with one tensor in memory at a time, and returns
/// its size in bytes. The output is deterministic.
pub(super) fn write(
    file: &Path,
    tensors: &[Lazy],
    notes: &Metadata,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64> {
    let mut tensors: Vec<_> = tensors.iter().collect();
    // Wide dtypes first, so that every tensor is aligned to its element size.
    tensors.sort_by_key(|tensor| (Reverse(tensor.dtype.size_in_bytes()), &tensor.name));
    let header = header(&tensors, notes);
    let sizes = tensors.iter().map(|tensor| tensor.size());
    let length = (header.len() + sizes.sum::<usize>()) as u64;
    let mut growing = Growing::begin(file)?;
    growing.append(&header)?;
    let mut done = header.len() as u64;
    for tensor in tensors {
        progress(done, length);
        growing.append(&tensor.bytes()?)?;
        done += tensor.size() as u64;
    }
    growing.finish()?;
    Ok(length)
}

/// The safetensors header, preceded by its length.
fn header(tensors: &[&Lazy], notes: &Metadata) -> Vec<u8> {
    let notes: BTreeMap<_, _> = notes.iter().collect();
    let mut table = Map::from_iter([("__metadata__".to_owned(), json!(notes))]);
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.size();
        let entry = json!({
            "dtype": Dtype::from(tensor.dtype),
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        });
        table.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut text = Value::Object(table).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = text.len() as u64;
    [&length.to_le_bytes()[..], &text].concat()
}
