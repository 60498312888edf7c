//! PyTorch's files since version 1.6: a zip archive of a pickle and of the bytes of each
//! storage. Nothing in it is run.

mod machine;
mod state_dict;
mod values;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::{Mutex, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use zip::{ZipArchive, read::ZipFile, result::ZipError};

use crate::error::{Error, Result, reason_of};
use state_dict::{Content, Described, Storage};
use values::Values;

/// Bytes of the largest pickle that is read: Stable Diffusion's have half a megabyte.
const MAX_PICKLE: u64 = 8 << 20;

type Archive = ZipArchive<BufReader<File>>;

/// A PyTorch state dict.
pub(super) struct StateDict {
    archive: Mutex<Archive>,
    /// The folder of the archive.
    folder: String,
    tensors: BTreeMap<String, Described>,
    /// Bytes of the file.
    length: u64,
}

impl StateDict {
    /// Reads the table of contents of a file.
    pub(super) fn open(file: &Path) -> Result<Self> {
        let fault = |reason: String| Error::weights(file, reason);
        let reader = File::open(file).map_err(|error| Error::io(file, error))?;
        let length = reader.metadata().map_or(0, |found| found.len());
        let mut archive = ZipArchive::new(BufReader::new(reader))
            .map_err(|error| fault(format!("it is no whole zip archive ({error})")))?;
        let folder = folder_of(&archive).map_err(fault)?;
        check_order(&mut archive, &folder).map_err(fault)?;
        let pickle = pickle(&mut archive, &folder).map_err(fault)?;
        let described = Values::read(&pickle).and_then(|values| state_dict::tensors(&values));
        let described = described
            .map_err(|reason| fault(format!("it is not a PyTorch state dict: {reason}")))?;
        Ok(Self {
            archive: Mutex::new(archive),
            folder,
            tensors: described,
            length,
        })
    }

    /// The names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &tensor.shape[..])
    }

    /// The type of a tensor.
    pub(super) fn dtype(&self, name: &str) -> Option<Result<DType, String>> {
        let tensor = self.tensors.get(name)?;
        let unknown = |name| format!("its type {name} is not supported");
        Some(tensor.dtype.clone().map_err(unknown))
    }

    /// Reads a tensor, which is contiguous whatever its strides are in the file.
    pub(super) fn load(&self, name: &str) -> Option<Result<Tensor, String>> {
        let tensor = self.tensors.get(name)?;
        Some(match &tensor.content {
            Content::Number(number) => {
                Tensor::new(*number, &Device::Cpu).map_err(|error| reason_of(&error))
            }
            Content::Storage(storage) => self
                .dtype(name)?
                .and_then(|dtype| self.read(tensor, storage, dtype)),
        })
    }

    fn read(&self, tensor: &Described, from: &Storage, dtype: DType) -> Result<Tensor, String> {
        let (shape, size) = (&tensor.shape[..], dtype.size_in_bytes());
        let span = from.span(shape).and_then(|span| span.checked_mul(size));
        let count = shape.iter().copied().try_fold(size, usize::checked_mul);
        let (Some(span), Some(count)) = (span, count) else {
            return Err(TOO_LARGE.into());
        };
        if span.max(count) as u64 > self.length {
            return Err(TOO_LARGE.into());
        }
        let skipped = (from.offset as u64).saturating_mul(size as u64);
        let stored = self.bytes(&from.key, skipped, span)?;
        let bytes = match from.is_contiguous(shape) {
            true => stored,
            false => from.gathered(shape, &stored, size),
        };
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu);
        tensor.map_err(|error| reason_of(&error))
    }

    /// Some bytes of a storage.
    fn bytes(&self, key: &str, skipped: u64, count: usize) -> Result<Vec<u8>, String> {
        let name = format!("{}data/{key}", self.folder);
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = entry(&mut archive, &name)?;
        let damaged = |error: io::Error| format!("its bytes are damaged ({error})");
        io::copy(&mut entry.by_ref().take(skipped), &mut io::sink()).map_err(damaged)?;
        let mut bytes = vec![0; count];
        entry.read_exact(&mut bytes).map_err(damaged)?;
        // The end of the entry compares its check sum, where the tensor reaches it.
        if skipped + count as u64 == entry.size() {
            entry.read(&mut [0]).map_err(damaged)?;
        }
        Ok(bytes)
    }
}

const TOO_LARGE: &str = "it is larger than the file: the file is damaged";

impl Storage {
    /// Values from the first to behind the last; `None` if they are too many to count.
    fn span(&self, shape: &[usize]) -> Option<usize> {
        if shape.contains(&0) {
            return Some(0);
        }
        let axes = shape.iter().zip(&self.strides);
        axes.map(|(size, stride)| (size - 1).checked_mul(*stride))
            .try_fold(1_usize, |span, axis| span.checked_add(axis?))
    }

    fn is_contiguous(&self, shape: &[usize]) -> bool {
        let mut step = 1;
        shape.iter().zip(&self.strides).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == step;
            step *= size;
            fits
        })
    }

    /// The values in the order of the shape, as `size` bytes each.
    fn gathered(&self, shape: &[usize], stored: &[u8], size: usize) -> Vec<u8> {
        let mut places = vec![0];
        for (axis, stride) in shape.iter().zip(&self.strides) {
            let along = |place: usize| (0..*axis).map(move |i| place + i * stride);
            places = places.into_iter().flat_map(along).collect();
        }
        let value = |place: usize| &stored[place * size..(place + 1) * size];
        places.into_iter().flat_map(value).copied().collect()
    }
}

/// The folder of the only state dict in an archive, with a slash at its end.
fn folder_of(archive: &Archive) -> Result<String, String> {
    let names = archive.file_names().filter_map(Result::ok);
    let folders = names.filter_map(|name| name.strip_suffix("data.pkl").map(str::to_owned));
    let mut folders = folders.filter(|folder| folder.is_empty() || folder.ends_with('/'));
    match (folders.next(), folders.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err("it is a zip archive without a PyTorch state dict: unpack it".into()),
        (Some(_), Some(_)) => Err("it is an archive of several PyTorch files: unpack it".into()),
    }
}

/// Refuses other archives of PyTorch: of programs, and of computers that number bytes the
/// other way round.
fn check_order(archive: &mut Archive, folder: &str) -> Result<(), String> {
    if archive.by_name(&format!("{folder}constants.pkl")).is_ok() {
        return Err(
            "it is a TorchScript program, not a state dict: save the state_dict() of its module"
                .into(),
        );
    }
    let mut order = String::new();
    if let Ok(mut found) = archive.by_name(&format!("{folder}byteorder")) {
        let _ = found.by_ref().take(16).read_to_string(&mut order);
    }
    match order.trim() {
        "big" => Err("its numbers are big-endian: save it again on another computer".into()),
        _ => Ok(()),
    }
}

fn pickle(archive: &mut Archive, folder: &str) -> Result<Vec<u8>, String> {
    let pickle = entry(archive, &format!("{folder}data.pkl"))?;
    if pickle.size() > MAX_PICKLE {
        return Err("its pickle is larger than that of any model".into());
    }
    let mut bytes = Vec::new();
    let read = pickle.take(MAX_PICKLE).read_to_end(&mut bytes);
    read.map_err(|error| format!("its pickle is damaged ({error})"))?;
    Ok(bytes)
}

fn entry<'a>(archive: &'a mut Archive, name: &str) -> Result<ZipFile<'a, BufReader<File>>, String> {
    archive.by_name(name).map_err(|error| match error {
        ZipError::FileNotFound => format!("the archive lacks {name:?}: the file is damaged"),
        ZipError::UnsupportedArchive(_) => {
            format!("{name:?} is compressed, as PyTorch does not: save it again with PyTorch")
        }
        other => format!("{name:?} is damaged ({other})"),
    })
}

#[cfg(test)]
mod tests;
