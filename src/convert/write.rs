//! Writes safetensors files tensor by tensor.

use std::path::Path;

use super::Lazy;
use crate::{
    error::Result,
    io::{AtomicFile, Existing, Metadata, by_width, header},
};

/// Writes a safetensors file with one tensor in memory at a time, and returns
/// its size in bytes. The output is deterministic.
pub(super) fn write(
    file: &Path,
    tensors: &[Lazy],
    notes: &Metadata,
    existing: Existing,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64> {
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| by_width(tensor.dtype.into(), &tensor.name));
    let table = tensors.iter();
    let table = table.map(|tensor| (&tensor.name[..], tensor.dtype.into(), &tensor.shape[..]));
    let header = header(table, notes);
    let sizes = tensors.iter().map(|tensor| tensor.size());
    let length = (header.len() + sizes.sum::<usize>()) as u64;
    let mut out = AtomicFile::create(file, existing)?;
    out.append(&header)?;
    let mut done = header.len() as u64;
    for tensor in tensors {
        progress(done, length);
        out.append(&tensor.bytes()?)?;
        done += tensor.size() as u64;
    }
    out.finish()?;
    Ok(length)
}
