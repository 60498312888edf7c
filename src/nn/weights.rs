//! The cursor from which every layer is read, and the only place where an
//! adapter meets a layer.

use std::fmt::Display;

use candle_core::{DType, Device, Shape, Tensor};

use super::{
    Checkpoint, Conv2d, Fresh, GroupNorm, LayerNorm, Linear, LowRank, LowRanks, Shelf, Stride,
};
use crate::error::Result;

/// How a network's weights are kept in memory.
#[derive(Clone, Debug)]
pub struct Storage {
    /// The type they are stored in: f32, f16 or bf16.
    pub dtype: DType,
    /// Where they are stored.
    pub device: Device,
}

impl Storage {
    /// f32 on the CPU.
    pub fn plain() -> Self {
        Self {
            dtype: DType::F32,
            device: Device::Cpu,
        }
    }

    /// In f32 on the same device.
    pub fn exact(&self) -> Self {
        Self {
            dtype: DType::F32,
            ..self.clone()
        }
    }

    /// The type of the activations: f32 on a CPU, where half precision has no
    /// fast arithmetic, and the weights' own type elsewhere.
    pub fn compute(&self) -> DType {
        match self.device.is_cpu() {
            true => DType::F32,
            false => self.dtype,
        }
    }
}

/// A place among a network's weights: `weights.at("down_blocks").at(0)`.
#[derive(Clone)]
pub struct Weights<'a> {
    source: Source<'a>,
    storage: &'a Storage,
    changes: Changes<'a>,
    shelf: Option<&'a Shelf>,
    path: String,
}

/// The low-rank changes of the layers, and how they meet them.
#[derive(Clone, Copy)]
enum Changes<'a> {
    None,
    /// Added to the weights.
    Merged(&'a LowRanks),
    /// Computed beside the layers.
    Beside(&'a LowRanks),
}

/// Where weights come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Checkpoint),
    Fresh(&'a Fresh),
}

impl<'a> Weights<'a> {
    /// The top of a checkpoint.
    pub fn new(checkpoint: &'a Checkpoint, storage: &'a Storage) -> Self {
        Self::of(Source::File(checkpoint), storage)
    }

    /// The top of weights that no file holds, in f32.
    pub fn fresh(fresh: &'a Fresh, storage: &'a Storage) -> Self {
        Self::of(Source::Fresh(fresh), storage)
    }

    fn of(source: Source<'a>, storage: &'a Storage) -> Self {
        Self {
            source,
            storage,
            changes: Changes::None,
            shelf: None,
            path: String::new(),
        }
    }

    /// Adds the low-rank changes to every layer that is read from here on.
    pub fn merged_with(self, changes: &'a LowRanks) -> Self {
        Self {
            changes: Changes::Merged(changes),
            ..self
        }
    }

    /// Computes the low-rank changes beside every layer that is read from here
    /// on, so that they can be trained.
    pub fn changed_by(self, changes: &'a LowRanks) -> Self {
        Self {
            changes: Changes::Beside(changes),
            ..self
        }
    }

    /// Takes layers from a shelf and puts those there that are not, so that
    /// networks of the same file share them.
    pub fn shared_on(self, layers: &'a Shelf) -> Self {
        Self {
            shelf: Some(layers),
            ..self
        }
    }

    /// The same place, with everything below it kept in another way.
    pub fn kept_as<'b>(&self, storage: &'b Storage) -> Weights<'b>
    where
        'a: 'b,
    {
        Weights {
            storage,
            ..self.clone()
        }
    }

    /// The place one name further down.
    pub fn at(&self, name: impl Display) -> Self {
        let path = match self.path.is_empty() {
            true => name.to_string(),
            false => format!("{}.{name}", self.path),
        };
        Self {
            path,
            ..self.clone()
        }
    }

    /// The first of several names that exists: files of different ages name
    /// the same layer differently. The first one where none does.
    pub fn at_any(&self, names: &[&str]) -> Self {
        let found = names.iter().map(|name| self.at(name)).find(Self::exists);
        found.unwrap_or_else(|| self.at(names[0]))
    }

    /// Whether any tensor lies here or below.
    pub fn exists(&self) -> bool {
        let below = format!("{}.", self.path);
        let any_below =
            |file: &Checkpoint| file.names().iter().any(|name| name.starts_with(&below));
        self.here().is_some()
            || self.shape("weight").is_some()
            || matches!(self.source, Source::File(file) if any_below(file))
    }

    /// The shape of the tensor `name` here, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.at(name).here()
    }

    /// The shape of the tensor here, if there is one.
    fn here(&self) -> Option<Vec<usize>> {
        match self.source {
            Source::File(file) => file.shape(&self.path),
            Source::Fresh(fresh) => fresh.optional(&self.path),
        }
    }

    /// The storage of everything read from here.
    pub fn storage(&self) -> &Storage {
        self.storage
    }

    /// The tensor `name` here, of exactly this shape.
    pub fn tensor(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let place = self.at(name);
        let shape = shape.into();
        let file = match self.source {
            Source::File(file) => file,
            Source::Fresh(fresh) => {
                return fresh.load(&place.path, &shape, self.storage);
            }
        };
        match file.shape(&place.path) {
            Some(found) if found == shape.dims() => place.read(file, shape),
            Some(found) => Err(place.fault(&format!("expected {shape:?}, found {found:?}"))),
            None => Err(place.fault("it is missing")),
        }
    }

    /// A linear layer, with a bias where the file has one. A 1x1 convolution is
    /// the same arithmetic and is taken too.
    pub fn linear(&self, inputs: usize, outputs: usize) -> Result<Linear> {
        let read = || self.plain_linear(inputs, outputs);
        let layer = match self.shelf() {
            Some(layers) => layers.linear(&self.path, read)?,
            None => read()?,
        };
        match self.beside() {
            Some(change) => Ok(layer.with_change(change)?),
            None => Ok(layer),
        }
    }

    fn plain_linear(&self, inputs: usize, outputs: usize) -> Result<Linear> {
        let pointwise = self.shape("weight").is_some_and(|shape| shape.len() == 4);
        let weight = match pointwise {
            true => self
                .tensor("weight", (outputs, inputs, 1, 1))?
                .reshape((outputs, inputs))?,
            false => self.tensor("weight", (outputs, inputs))?,
        };
        Ok(Linear::new(weight, self.bias(outputs)?)?)
    }

    /// A convolution with a k x k kernel.
    pub fn conv(&self, inputs: usize, outputs: usize, k: usize, stride: Stride) -> Result<Conv2d> {
        let read = || {
            let weight = self.tensor("weight", (outputs, inputs, k, k))?;
            Ok(Conv2d::new(weight, self.bias(outputs)?, stride)?)
        };
        let layer = match self.shelf() {
            Some(layers) => layers.conv(&self.path, read)?,
            None => read()?,
        };
        match self.beside() {
            Some(change) => Ok(layer.with_change(change)?),
            None => Ok(layer),
        }
    }

    /// The shelf, for a layer whose weights are those of the file.
    fn shelf(&self) -> Option<&'a Shelf> {
        self.shelf
            .filter(|_| !matches!(self.changes, Changes::Merged(_)))
    }

    /// The change to compute beside the layer here.
    fn beside(&self) -> Option<&'a LowRank> {
        match self.changes {
            Changes::Beside(changes) => changes.get(&self.path),
            _ => None,
        }
    }

    /// A group norm.
    pub fn group_norm(&self, channels: usize, groups: usize, eps: f64) -> Result<GroupNorm> {
        if !channels.is_multiple_of(groups) {
            return Err(self.fault(&format!(
                "{channels} channels do not fall into {groups} groups"
            )));
        }
        let (weight, bias) = (
            self.tensor("weight", channels)?,
            self.tensor("bias", channels)?,
        );
        Ok(GroupNorm::new(weight, bias, groups, eps)?)
    }

    /// A layer norm.
    pub fn layer_norm(&self, channels: usize, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm::new(
            self.tensor("weight", channels)?,
            self.tensor("bias", channels)?,
            eps,
        )?)
    }

    fn bias(&self, outputs: usize) -> Result<Option<Tensor>> {
        self.shape("bias")
            .map(|_| self.tensor("bias", outputs))
            .transpose()
    }

    /// Reads the tensor here in the storage type, with its low-rank change.
    fn read(&self, file: &Checkpoint, shape: Shape) -> Result<Tensor> {
        let stored = file.load(&self.path, &self.storage.device)?;
        let module = self.path.strip_suffix(".weight");
        let merged = |module| match self.changes {
            Changes::Merged(changes) => changes.get(module),
            _ => None,
        };
        let Some(change) = module.and_then(merged) else {
            return Ok(stored.to_dtype(self.storage.dtype)?);
        };
        let merged = change.merged_into(&stored)?.ok_or_else(|| {
            self.fault(&format!(
                "its shape is {shape:?}, but the adapter's factors are {:?} and {:?}: \
                 the adapter belongs to another model",
                change.down.dims(),
                change.up.dims()
            ))
        })?;
        Ok(merged.to_dtype(self.storage.dtype)?)
    }

    fn fault(&self, reason: &str) -> crate::Error {
        let reason = format!("tensor {:?}: {reason}", self.path);
        match self.source {
            Source::File(file) => file.fault(reason),
            Source::Fresh(_) => crate::Error::setting(reason),
        }
    }
}
