//! Checkpoint files: safetensors, memory-mapped, or pickles, detected from their content.

mod dtype;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::Read,
    ops::{Bound, Range},
    path::{Path, PathBuf},
};

use candle_core::{
    Device, Tensor,
    safetensors::{Load, MmapedSafetensors, SliceSafetensors},
};
use safetensors::{Dtype, tensor::TensorView};
use serde::Deserialize;

use super::{
    Source,
    known::{KnownFile, Role},
    pickle::StateDict,
    quantized::{dequantized, scale_of, scaled_by},
};
use crate::error::{Error, Result, reason_of};

/// The tensors of one checkpoint: a safetensors file, the index of a sharded
/// one (`*.safetensors.index.json`), or a PyTorch state dict in the zip format.
///
/// Tensors are read on demand.
pub struct Checkpoint {
    file: PathBuf,
    tensors: Tensors,
    /// By name, in the file's layout or in another one.
    views: BTreeMap<String, View>,
}

/// A tensor of a file, as a tensor of another layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    name: String,
    rows: Option<Range<usize>>,
    transposed: bool,
}

impl View {
    /// The whole tensor `name`.
    pub fn of(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rows: None,
            transposed: false,
        }
    }

    /// The name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Restricts the view to some rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        let rows = Some(rows);
        Self { rows, ..self }
    }

    /// Transposes the view.
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
    /// The shards, mostly one.
    Pickled(Vec<StateDict>),
    BuiltIn(SliceSafetensors<'static>),
}

impl Tensors {
    fn open(source: &Source) -> Result<Self> {
        let file = source.name();
        if let Some(built_in) = source.in_program() {
            let tensors = SliceSafetensors::new(built_in.bytes)
                .map_err(|error| Error::weights(file, reason_of(&error)))?;
            return Ok(Self::BuiltIn(tensors));
        }
        match Format::of(first_bytes(file)?) {
            Format::Json => Self::of_shards(file, &shards(file)?),
            Format::Zip | Format::Safetensors => Self::of_shards(file, &[file.to_path_buf()]),
        }
    }

    /// The tensors of shards, which are all safetensors or all pickles.
    fn of_shards(file: &Path, shards: &[PathBuf]) -> Result<Self> {
        let first = shards.first().map(|shard| first_bytes(shard)).transpose()?;
        match first.map(Format::of) {
            Some(Format::Zip) => {
                let shards = shards.iter().map(|shard| StateDict::open(shard));
                Ok(Self::Pickled(shards.collect::<Result<_>>()?))
            }
            _ => Ok(Self::Mapped(map(file, shards)?)),
        }
    }

    fn names(&self) -> Vec<String> {
        let safetensors = match self {
            Self::Mapped(tensors) => tensors.tensors(),
            Self::BuiltIn(tensors) => tensors.tensors(),
            Self::Pickled(shards) => {
                return shards.iter().flat_map(StateDict::names).cloned().collect();
            }
        };
        let is_tensor = |name: &String| !self.is_scale(name);
        let names = safetensors.into_iter().map(|(name, _)| name);
        names.filter(is_tensor).collect()
    }

    /// Whether a tensor of a safetensors file has the scales of another one in 8 bits.
    fn is_scale(&self, name: &str) -> bool {
        let scaled = scaled_by(name).and_then(|name| self.mapped(name));
        scaled.is_some_and(|view| view.dtype() == Dtype::I8)
    }

    /// A tensor of a safetensors file.
    fn mapped(&self, name: &str) -> Option<TensorView<'_>> {
        match self {
            Self::Mapped(tensors) => tensors.get(name).ok(),
            Self::BuiltIn(tensors) => tensors.get(name).ok(),
            Self::Pickled(_) => None,
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Pickled(shards) => {
                let shape = shards.iter().find_map(|shard| shard.shape(name));
                shape.map(<[usize]>::to_vec)
            }
            _ => self.mapped(name).map(|view| view.shape().to_vec()),
        }
    }
}

impl Checkpoint {
    /// Opens a checkpoint and reads its table of contents.
    pub fn open(file: impl Into<Source>) -> Result<Self> {
        let source = file.into();
        let tensors = Tensors::open(&source)?;
        let names = tensors.names().into_iter();
        Ok(Self {
            file: source.name().into(),
            views: names.map(|name| (name.clone(), View::of(name))).collect(),
            tensors,
        })
    }

    /// Replaces the tensors by views in another layout.
    pub fn seen_as(self, views: BTreeMap<String, View>) -> Self {
        Self { views, ..self }
    }

    /// The file that was opened.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.views.keys().cloned().collect()
    }

    /// The name in the file of a tensor of this layout.
    pub fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.views.get(name).map_or(name, View::name)
    }

    /// Whether any tensor's name begins with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let first = self.views.range::<str, _>(from).next();
        first.is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The shape of a tensor, or `None` if there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let view = self.views.get(name)?;
        Some(view.shape(self.tensors.shape(&view.name)?))
    }

    /// Number of values of all tensors.
    pub fn values(&self) -> usize {
        let shapes = self.views.keys().filter_map(|name| self.shape(name));
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Reads a tensor in its stored type; 8-bit weights with a scale for each row as f32.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let missing = || self.tensor_fault(name, MISSING);
        let view = self.views.get(name).ok_or_else(missing)?;
        Ok(view.tensor(&self.load_stored(&view.name, device)?)?)
    }

    fn load_stored(&self, name: &str, device: &Device) -> Result<Tensor> {
        let fault = |reason: String| self.tensor_fault(name, &reason);
        if let Tensors::Pickled(shards) = &self.tensors {
            let read = shards.iter().find_map(|shard| shard.load(name));
            let read = read.unwrap_or_else(|| Err(MISSING.into()));
            return Ok(read.map_err(fault)?.to_device(device)?);
        }
        let view = self.tensors.mapped(name);
        let view = view.ok_or_else(|| fault(MISSING.into()))?;
        if view.dtype() == Dtype::I8 {
            let scale = self.tensors.mapped(&scale_of(name));
            let scale = scale.ok_or_else(|| fault(UNSCALED.into()))?;
            return Ok(dequantized(&view, &scale)
                .map_err(fault)?
                .to_device(device)?);
        }
        dtype::known(view.dtype()).map_err(fault)?;
        let failed = |error| Error::of_operation(error, |reason| fault(reason.into()));
        view.load(device).map_err(failed)
    }

    /// An error that names this file.
    pub fn fault(&self, reason: impl ToString) -> Error {
        Error::weights(&self.file, reason)
    }

    /// An error that names this file and one of its tensors.
    pub fn tensor_fault(&self, name: &str, reason: &str) -> Error {
        self.fault(format!("tensor {name:?}: {reason}"))
    }
}

/// The `__metadata__` table of a safetensors file; empty for other files.
pub fn safetensors_metadata(file: &Source) -> Result<HashMap<String, String>> {
    if let Some(built_in) = file.in_program() {
        return metadata_in(file, built_in.bytes);
    }
    let reader = File::open(file).map_err(|error| Error::io(file, error))?;
    metadata_in(file, reader)
}

fn metadata_in(file: &Source, mut reader: impl Read) -> Result<HashMap<String, String>> {
    let mut length = [0; 8];
    if reader.read_exact(&mut length).is_err() || Format::of(length) != Format::Safetensors {
        return Ok(HashMap::new());
    }
    let mut header = Vec::new();
    let limit = u64::from_le_bytes(length).min(100 << 20);
    let read = reader.take(limit).read_to_end(&mut header);
    read.map_err(|error| Error::io(file, error))?;
    let header: Header = serde_json::from_slice(&header).map_err(|error| {
        let reason = format!("its header is not a safetensors header ({error})");
        Error::weights(file, reason)
    })?;
    Ok(header.metadata.unwrap_or_default())
}

/// The format of a weights file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// A zip archive: a PyTorch state dict.
    Zip,
    /// JSON: the index of shards.
    Json,
    /// Safetensors, or something else.
    Safetensors,
}

impl Format {
    /// The format for the first bytes of a file. In safetensors they are the length of the
    /// header, which is never so large that the last of them is not 0.
    fn of(begin: [u8; 8]) -> Self {
        match begin {
            [b'P', b'K', 3, 4, ..] => Self::Zip,
            [b'{', .., last] if last != 0 => Self::Json,
            _ => Self::Safetensors,
        }
    }
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Option<HashMap<String, String>>,
}

fn first_bytes(file: &Path) -> Result<[u8; 8]> {
    let mut bytes = [0; 8];
    let mut reader = File::open(file).map_err(|error| Error::io(file, error))?;
    let read = reader.read_exact(&mut bytes);
    read.map_err(|_| Error::weights(file, "it is empty or cut off"))?;
    Ok(bytes)
}

/// What is wrong with a tensor of signed bytes alone.
const UNSCALED: &str = "its signed bytes have no scales beside them";

/// What is missing of a tensor of which only the name is known.
const MISSING: &str = "it is missing";

#[expect(unsafe_code, reason = "memory maps")]
fn map(file: &Path, shards: &[PathBuf]) -> Result<MmapedSafetensors> {
    // SAFETY: the files are opened for reading only; like every program that
    // maps its weights, this one relies on nobody truncating them meanwhile.
    unsafe { MmapedSafetensors::multi(shards) }.map_err(|error| {
        let other = shards
            .iter()
            .filter_map(|shard| Some((shard, KnownFile::at(shard)?)));
        let other = other.filter(|(_, kind)| kind.role != Role::Weights);
        if let Some((shard, kind)) = other.min_by_key(|(shard, _)| *shard) {
            return Error::weights(shard, kind.told());
        }
        let what = "neither a complete safetensors file nor a PyTorch state dict";
        Error::weights(file, format!("it is {what} ({})", reason_of(&error)))
    })
}

/// The names of the shards beside `file` if its name is that of an index; empty for other
/// files.
pub(crate) fn shard_names(file: &Path) -> Result<BTreeSet<String>> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Of a variant, as diffusers names it: weights.safetensors.index.fp16.json.
    let is_index = name.ends_with(".json") && name.contains(".index.");
    match is_index {
        true => read_index(file),
        false => Ok(BTreeSet::new()),
    }
}

/// The names of the shards in an index.
fn read_index(file: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = Source::from(file).text()?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::weights(file, format!("it is not an index of shards ({error})")))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    let is_bare = |name: &String| Path::new(name).file_name() == Some(name.as_ref());
    if let Some(name) = names.iter().find(|name| !is_bare(name)) {
        let reason = format!("shard {name:?} is not a file beside the index");
        return Err(Error::weights(file, reason));
    }
    Ok(names)
}

/// The shards of an index.
fn shards(file: &Path) -> Result<Vec<PathBuf>> {
    let names = read_index(file)?.into_iter();
    let paths: Vec<_> = names.map(|name| file.with_file_name(name)).collect();
    if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
        let reason = format!("shard {} is missing", missing.display());
        return Err(Error::weights(file, reason));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests;
