//! Writing of safetensors files.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{Device, Tensor};
use safetensors::tensor::serialize;

use super::write_beside;
use crate::error::{Error, Result};

/// The metadata of a safetensors file.
pub type Metadata = HashMap<String, String>;

/// Named tensors, sorted by name.
pub type Tensors = Vec<(String, Tensor)>;

/// Writes tensors to a safetensors file atomically.
pub fn write_tensors(file: &Path, tensors: &Tensors, metadata: Metadata) -> Result<()> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor));
    let sorted: BTreeMap<_, _> = metadata.clone().into_iter().collect();
    let mut bytes = serialize(views, Some(metadata)).map_err(|e| Error::weights(file, e))?;
    sort_metadata(&mut bytes, &sorted);
    write_beside(file, &bytes)
}

/// Sorts the metadata of a safetensors file by key, so that equal values give equal
/// files. It comes first in the header and has the same size in any order.
fn sort_metadata(bytes: &mut [u8], metadata: &BTreeMap<String, String>) {
    const BEFORE: &[u8] = b"{\"__metadata__\":";
    let text = serde_json::to_string(metadata).unwrap_or_default();
    let start = size_of::<u64>() + BEFORE.len();
    let place = bytes.get_mut(start..start + text.len());
    if let Some(place) = place.filter(|place| place.ends_with(b"}")) {
        place.copy_from_slice(text.as_bytes());
    }
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
            write_tensors(&file, &vec![("x".into(), x.clone())], notes.collect()).unwrap();
            std::fs::read(file).unwrap()
        };
        assert!(bytes("a") == bytes("b"));
        let (_, header) = SafeTensors::read_metadata(&bytes("c")).unwrap();
        let notes = header.metadata().clone().unwrap();
        assert_eq!(notes.len(), 20);
        assert_eq!(notes["key 7"], "\"value\" 7 ü");
    }
}
