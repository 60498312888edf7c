//! Checkpoint files, as memory maps or pickles, told apart by their content.

mod dtype;

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
    ops::Range,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Once,
};

use candle_core::{
    Device, Tensor,
    pickle::{PthTensors, TensorInfo},
    safetensors::{MmapedSafetensors, SliceSafetensors},
};
use serde::Deserialize;

use crate::{
    error::{Error, Result},
    source::Source,
};

/// The tensors of one checkpoint: a safetensors file, the index of a sharded
/// one (`*.safetensors.index.json`), or a PyTorch state dict in the zip format.
///
/// Nothing is read before it is asked for.
pub struct Checkpoint {
    file: PathBuf,
    tensors: Tensors,
    /// The tensors by other names than the file's, and all there are.
    views: Option<HashMap<String, View>>,
}

/// A tensor of a file as another layout has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name in the file.
    name: String,
    /// The part of its first axis that counts.
    rows: Option<Range<usize>>,
    /// Whether its two axes change places.
    transposed: bool,
}

impl View {
    /// All of the tensor `name`.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            rows: None,
            transposed: false,
        }
    }

    /// Some of its rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        let rows = Some(rows);
        Self { rows, ..self }
    }

    /// With its two axes exchanged.
    pub fn transposed(self) -> Self {
        Self {
            transposed: true,
            ..self
        }
    }

    fn shape(&self, mut shape: Vec<usize>) -> Vec<usize> {
        if let (Some(rows), Some(first)) = (&self.rows, shape.first_mut()) {
            *first = rows.len();
        }
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    fn tensor(&self, whole: &Tensor) -> candle_core::Result<Tensor> {
        let part = match &self.rows {
            Some(rows) => whole.narrow(0, rows.start, rows.len())?,
            None => whole.clone(),
        };
        match self.transposed {
            true => part.t()?.contiguous(),
            false => part.contiguous(),
        }
    }
}

enum Tensors {
    Mapped(MmapedSafetensors),
    Pickled(PthTensors),
    BuiltIn(SliceSafetensors<'static>),
}

impl Checkpoint {
    /// Opens a checkpoint and reads its table of contents.
    pub fn open(file: impl Into<Source>) -> Result<Self> {
        let source = file.into();
        let file = source.name();
        if let Some(bytes) = source.in_program() {
            let tensors = SliceSafetensors::new(bytes).map_err(|e| Error::weights(file, e))?;
            return Ok(Self {
                file: file.into(),
                tensors: Tensors::BuiltIn(tensors),
                views: None,
            });
        }
        let tensors = match &magic(file)? {
            b"PK\x03\x04" => Tensors::Pickled(unpickle(file)?),
            [b'{', ..] => Tensors::Mapped(map(file, &shards(file)?)?),
            _ => Tensors::Mapped(map(file, &[file.to_path_buf()])?),
        };
        Ok(Self {
            file: file.into(),
            tensors,
            views: None,
        })
    }

    /// The tensors of another layout that this file's are.
    pub fn seen_as(self, views: HashMap<String, View>) -> Self {
        let views = Some(views);
        Self { views, ..self }
    }

    /// The file that was opened.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The names of all tensors, in no particular order.
    pub fn names(&self) -> Vec<String> {
        if let Some(views) = &self.views {
            return views.keys().cloned().collect();
        }
        match &self.tensors {
            Tensors::Mapped(tensors) => tensors
                .tensors()
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            Tensors::Pickled(tensors) => tensors.tensor_infos().keys().cloned().collect(),
            Tensors::BuiltIn(tensors) => {
                let named = tensors.tensors().into_iter();
                named.map(|(name, _)| name).collect()
            }
        }
    }

    /// The shape of a tensor, or `None` where there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.views {
            Some(views) => {
                let view = views.get(name)?;
                Some(view.shape(self.stored_shape(&view.name)?))
            }
            None => self.stored_shape(name),
        }
    }

    fn stored_shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.tensors {
            Tensors::Mapped(tensors) => Some(tensors.get(name).ok()?.shape().to_vec()),
            Tensors::Pickled(tensors) => {
                Some(tensors.tensor_infos().get(name)?.layout.dims().to_vec())
            }
            Tensors::BuiltIn(tensors) => Some(tensors.get(name).ok()?.shape().to_vec()),
        }
    }

    /// How many values all tensors have together.
    pub fn values(&self) -> usize {
        let shapes = self
            .names()
            .into_iter()
            .filter_map(|name| self.shape(&name));
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Reads a tensor in the type it is stored in.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let Some(views) = &self.views else {
            return self.load_stored(name, device);
        };
        let missing = || self.fault(format!("tensor {name:?}: it is missing"));
        let view = views.get(name).ok_or_else(missing)?;
        Ok(view.tensor(&self.load_stored(&view.name, device)?)?)
    }

    fn load_stored(&self, name: &str, device: &Device) -> Result<Tensor> {
        let fault = |reason: String| self.fault(format!("tensor {name:?}: {reason}"));
        match &self.tensors {
            Tensors::Mapped(tensors) => tensors
                .load(name, device)
                .map_err(|error| fault(error.to_string())),
            Tensors::BuiltIn(tensors) => tensors
                .load(name, device)
                .map_err(|error| fault(error.to_string())),
            Tensors::Pickled(tensors) => {
                let info = tensors.tensor_infos().get(name);
                if info.is_some_and(|info| info.layout.start_offset() != 0) {
                    return Err(fault(
                        "it is a view into a larger storage; save a copy of it".into(),
                    ));
                }
                let info = info.ok_or_else(|| fault("it is missing".into()))?;
                if !self.could_hold(info) {
                    return Err(fault(
                        "it is larger than the file: the file is damaged".into(),
                    ));
                }
                let tensor = guarded(|| tensors.get(name))
                    .ok_or_else(|| fault("the file is damaged".into()))?
                    .map_err(|error| fault(error.to_string()))?;
                let tensor = tensor.ok_or_else(|| fault("it is missing".into()))?;
                Ok(tensor.to_device(device)?)
            }
        }
    }

    /// Whether the file has room for a tensor; PyTorch does not compress.
    fn could_hold(&self, info: &TensorInfo) -> bool {
        let sizes = info.layout.dims().iter();
        let count = sizes.copied().try_fold(1_usize, usize::checked_mul);
        let needed = count.and_then(|count| count.checked_mul(info.dtype.size_in_bytes()));
        let length = std::fs::metadata(&self.file).map_or(0, |found| found.len());
        needed.is_some_and(|needed| needed as u64 <= length)
    }

    /// An error that names this file.
    pub fn fault(&self, reason: impl ToString) -> Error {
        Error::weights(&self.file, reason)
    }
}

/// The `__metadata__` table of a safetensors file; empty for other files.
pub fn metadata(file: &Source) -> Result<HashMap<String, String>> {
    if let Some(bytes) = file.in_program() {
        return metadata_in(file, bytes);
    }
    let reader = File::open(file).map_err(|error| Error::io(file, error))?;
    metadata_in(file, reader)
}

fn metadata_in(file: &Source, mut reader: impl Read) -> Result<HashMap<String, String>> {
    let mut length = [0; 8];
    if reader.read_exact(&mut length).is_err() || is_other_format(length) {
        return Ok(HashMap::new());
    }
    let mut header = Vec::new();
    let limit = u64::from_le_bytes(length).min(100 << 20);
    reader
        .take(limit)
        .read_to_end(&mut header)
        .map_err(|error| Error::io(file, error))?;
    let header: Header = serde_json::from_slice(&header).map_err(|error| {
        Error::weights(
            file,
            format!("its header is no safetensors header ({error})"),
        )
    })?;
    Ok(header.metadata.unwrap_or_default())
}

/// Whether a file with these first bytes is a zip archive, or JSON: no table of
/// contents is long enough to begin like it.
fn is_other_format(begin: [u8; 8]) -> bool {
    begin.starts_with(b"PK\x03\x04") || matches!(begin, [b'{', .., last] if last != 0)
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Option<HashMap<String, String>>,
}

/// The first four bytes.
fn magic(file: &Path) -> Result<[u8; 4]> {
    let mut bytes = [0; 4];
    let mut reader = File::open(file).map_err(|error| Error::io(file, error))?;
    reader
        .read_exact(&mut bytes)
        .map_err(|_| Error::weights(file, "it is empty or cut off"))?;
    Ok(bytes)
}

#[expect(unsafe_code, reason = "memory maps")]
fn map(file: &Path, shards: &[PathBuf]) -> Result<MmapedSafetensors> {
    // SAFETY: the files are opened for reading only; like every program that
    // maps its weights, this one relies on nobody truncating them meanwhile.
    unsafe { MmapedSafetensors::multi(shards) }.map_err(|error| {
        let reason = format!("it is no whole safetensors file nor a PyTorch state dict ({error})");
        Error::weights(file, reason)
    })
}

/// The names of the files that the index of a sharded checkpoint names, all of
/// which lie beside it.
pub(crate) fn shard_names(file: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = std::fs::read_to_string(file).map_err(|error| Error::io(file, error))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::weights(file, format!("it is no index of shards ({error})")))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    let is_bare = |name: &String| Path::new(name).file_name() == Some(name.as_ref());
    match names.iter().find(|name| !is_bare(name)) {
        Some(name) => Err(Error::weights(
            file,
            format!("shard {name:?} is not a file beside the index"),
        )),
        None => Ok(names),
    }
}

/// The files that an index names.
fn shards(file: &Path) -> Result<Vec<PathBuf>> {
    let names = shard_names(file)?.into_iter();
    let paths: Vec<_> = names.map(|name| file.with_file_name(name)).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => Err(Error::weights(
            file,
            format!("shard {} is missing", missing.display()),
        )),
        None => Ok(paths),
    }
}

/// A state dict, bare or under the key `state_dict`.
fn unpickle(file: &Path) -> Result<PthTensors> {
    let open = |key| {
        let fault =
            |reason: &str| Error::weights(file, format!("it is no PyTorch state dict ({reason})"));
        guarded(|| PthTensors::new(file, key))
            .ok_or_else(|| fault("it is damaged"))?
            .map_err(|error| fault(&error.to_string()))
    };
    let bare = open(None)?;
    match bare.tensor_infos().is_empty() {
        true => open(Some("state_dict")),
        false => Ok(bare),
    }
}

thread_local! {
    /// Whether this thread runs a reader that panics at damaged files.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `read` gives, or nothing where it panics, which is not told: candle's
/// reader of pickles does at some damaged files.
fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    static SILENCED: Once = Once::new();
    SILENCED.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                usual(panic);
            }
        }));
    });
    GUARDED.set(true);
    // What the reader leaves behind is dropped.
    let read = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    read.ok()
}

#[cfg(test)]
mod tests {
    use candle_core::safetensors::save;

    use super::*;

    #[test]
    fn a_checkpoint_in_the_program_is_read_like_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let tensor = Tensor::new(&[[1f32, 2.0, 3.0]], &Device::Cpu).unwrap();
        save(&HashMap::from([("w", tensor)]), &file).unwrap();
        let bytes = std::fs::read(&file).unwrap().leak();
        for source in [Source::from(&file), Source::built_in("x", bytes)] {
            let checkpoint = Checkpoint::open(&source).unwrap();
            assert_eq!(checkpoint.names(), ["w"]);
            assert_eq!(checkpoint.shape("w"), Some(vec![1, 3]));
            assert_eq!(checkpoint.shape("v"), None);
            let read = checkpoint.load("w", &Device::Cpu).unwrap();
            assert_eq!(read.to_vec2::<f32>().unwrap(), [[1.0, 2.0, 3.0]]);
            assert!(checkpoint.load("v", &Device::Cpu).is_err());
            assert!(metadata(&source).unwrap().is_empty());
        }
        assert!(Checkpoint::open(Source::built_in("x", b"text")).is_err());
    }
}
