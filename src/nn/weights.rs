//! The cursor that reads layers from a checkpoint and applies adapters to them.

use std::fmt::Display;

use candle_core::{Shape, Tensor};

use super::{
    Conv2d, GroupNorm, LayerNorm, LayerWeight, Linear, LoraDelta, LoraDeltas, Placement,
    RandomInit, SharedLayers, Stride, Taken, ops::Ops, shared_layers::Shared,
};
use crate::{
    error::{Error, Result},
    io::Checkpoint,
};

/// A position in the tree of a network's weights: `weights.at("down_blocks").at(0)`.
#[derive(Clone)]
pub struct Weights<'a> {
    source: Source<'a>,
    placement: &'a Placement,
    lora: Lora<'a>,
    shared: Option<&'a SharedLayers>,
    taken: Option<&'a Taken>,
    path: String,
}

/// The LoRA deltas of the layers.
#[derive(Clone, Copy)]
enum Lora<'a> {
    None,
    /// Added to the weights.
    Merged(&'a LoraDeltas),
    /// Computed separately.
    Branches(&'a LoraDeltas),
}

#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Checkpoint),
    RandomInit(&'a RandomInit),
}

impl<'a> Weights<'a> {
    /// The root of a checkpoint.
    pub fn new(checkpoint: &'a Checkpoint, placement: &'a Placement) -> Self {
        Self::of(Source::File(checkpoint), placement)
    }

    /// The root of initial weights in f32.
    pub fn initial(init: &'a RandomInit, placement: &'a Placement) -> Self {
        Self::of(Source::RandomInit(init), placement)
    }

    fn of(source: Source<'a>, placement: &'a Placement) -> Self {
        Self {
            source,
            placement,
            lora: Lora::None,
            shared: None,
            taken: None,
            path: String::new(),
        }
    }

    /// Merges LoRA deltas into every layer that is read from now on.
    pub fn with_merged_lora(self, deltas: &'a LoraDeltas) -> Self {
        let lora = Lora::Merged(deltas);
        Self { lora, ..self }
    }

    /// Adds LoRA branches to every layer that is read from now on; they may be trained.
    pub fn with_lora(self, deltas: &'a LoraDeltas) -> Self {
        let lora = Lora::Branches(deltas);
        Self { lora, ..self }
    }

    /// Takes layers from `layers` and adds missing ones, to share them between networks of
    /// the same file.
    pub fn with_shared_layers(self, layers: &'a SharedLayers) -> Self {
        let shared = Some(layers);
        Self { shared, ..self }
    }

    /// Notes the tensors that are read from now on in `taken`.
    pub fn noting(self, taken: &'a Taken) -> Self {
        let taken = Some(taken);
        Self { taken, ..self }
    }

    /// The same position with another placement of the layers below.
    pub fn with_placement<'b>(&self, placement: &'b Placement) -> Weights<'b>
    where
        'a: 'b,
    {
        Weights {
            placement,
            ..self.clone()
        }
    }

    /// The child `name`.
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

    /// The first of several children that exists, else the first: the names of some layers
    /// differ between versions of the file format.
    pub fn at_any(&self, names: &[&str]) -> Self {
        let found = names.iter().map(|name| self.at(name)).find(Self::exists);
        found.unwrap_or_else(|| self.at(names[0]))
    }

    /// Whether there is any tensor here or below.
    pub fn exists(&self) -> bool {
        let below = |file: &Checkpoint| file.has_prefix(&format!("{}.", self.path));
        self.here().is_some()
            || self.shape("weight").is_some()
            || matches!(self.source, Source::File(file) if below(file))
    }

    /// The number of children that are called 0, 1, .. without a gap.
    pub fn count(&self) -> usize {
        let missing = (0..usize::MAX).find(|i| !self.at(i).exists());
        missing.unwrap_or(0)
    }

    /// The shape of the tensor `name` here, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.at(name).here()
    }

    /// The shape of the tensor `name`, which must be there and have so many sides, none of them 0.
    pub fn sides(&self, name: &str, rank: usize) -> Result<Vec<usize>> {
        let place = self.at(name);
        match place.here() {
            Some(shape) if shape.len() == rank && !shape.contains(&0) => Ok(shape),
            Some(shape) => Err(place.fault(&format!("expected {rank} sides, found {shape:?}"))),
            None => Err(place.fault("it is missing")),
        }
    }

    /// The shape of the tensor here, if there is one.
    fn here(&self) -> Option<Vec<usize>> {
        match self.source {
            Source::File(file) => file.shape(&self.path),
            Source::RandomInit(init) => init.optional(&self.path),
        }
    }

    /// The placement of the layers read from here.
    pub fn placement(&self) -> &Placement {
        self.placement
    }

    /// The backend of the layers read from here.
    pub fn ops(&self) -> &'static dyn Ops {
        self.placement.ops()
    }

    /// Reads the tensor `name` here, which must have this shape.
    pub fn tensor(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let merged = self.ops().merge(&self.weight(name, shape)?);
        self.at(name).named(merged)
    }

    /// The same on its way to a backend.
    fn weight(&self, name: &str, shape: impl Into<Shape>) -> Result<LayerWeight<'a>> {
        let place = self.at(name);
        self.note(place.path.clone());
        let shape = shape.into();
        let file = match self.source {
            Source::File(file) => file,
            Source::RandomInit(init) => {
                return Ok(init.load(&place.path, &shape, self.placement)?.into());
            }
        };
        match file.shape(&place.path) {
            Some(found) if found == shape.dims() => place.read(file),
            Some(found) => Err(place.fault(&format!("expected {shape:?}, found {found:?}"))),
            None => Err(place.fault("it is missing")),
        }
    }

    /// Reads a linear layer, with a bias if the file has one. The weight may be that of a
    /// 1x1 convolution.
    pub fn linear(&self, inputs: usize, outputs: usize) -> Result<Linear> {
        let read = || {
            let pointwise = self.shape("weight").is_some_and(|shape| shape.len() == 4);
            let weight = match pointwise {
                true => self
                    .weight("weight", (outputs, inputs, 1, 1))?
                    .reshaped((outputs, inputs)),
                false => self.weight("weight", (outputs, inputs))?,
            };
            self.named(Linear::new(self.ops(), weight, self.bias(outputs)?))
        };
        self.layer(|shared| &shared.linears, read, Linear::with_lora)
    }

    /// Reads a convolution with a k x k kernel.
    pub fn conv(&self, inputs: usize, outputs: usize, k: usize, stride: Stride) -> Result<Conv2d> {
        let read = || {
            let weight = self.weight("weight", (outputs, inputs, k, k))?;
            let bias = self.bias(outputs)?;
            self.named(Conv2d::new(self.ops(), weight, bias, stride))
        };
        self.layer(|shared| &shared.convs, read, Conv2d::with_lora)
    }

    /// Reads a layer, or takes it from the shared ones unless LoRA deltas are merged, and adds
    /// its LoRA branch.
    fn layer<L: Clone>(
        &self,
        kind: impl Fn(&SharedLayers) -> &Shared<L>,
        read: impl FnOnce() -> Result<L>,
        with_lora: impl Fn(&L, &LoraDelta) -> candle_core::Result<L>,
    ) -> Result<L> {
        // Whoever reads a layer that is shared reads both.
        self.note(format!("{}.weight", self.path));
        self.note(format!("{}.bias", self.path));
        let layer = match (self.shared, self.lora) {
            (None, _) | (_, Lora::Merged(_)) => read()?,
            (Some(layers), _) => kind(layers).get(&self.path, read)?,
        };
        let delta = match self.lora {
            Lora::Branches(deltas) => deltas.get(&self.path),
            _ => None,
        };
        match delta {
            // Where and as the layer's activations are.
            Some(delta) => Ok(with_lora(&layer, &delta.placed(self.placement)?)?),
            None => Ok(layer),
        }
    }

    /// Reads a group norm.
    pub fn group_norm(&self, channels: usize, groups: usize, eps: f64) -> Result<GroupNorm> {
        if !channels.is_multiple_of(groups) {
            let reason = format!("{channels} channels cannot be divided into {groups} groups");
            return Err(self.fault(&reason));
        }
        let affine = self.affine(channels)?;
        Ok(GroupNorm::new(self.ops(), affine, groups, eps)?)
    }

    /// Reads a layer norm.
    pub fn layer_norm(&self, channels: usize, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm::new(self.ops(), self.affine(channels)?, eps)?)
    }

    /// Scale and shift of a norm (channels).
    fn affine(&self, channels: usize) -> Result<[Tensor; 2]> {
        Ok([
            self.tensor("weight", channels)?,
            self.tensor("bias", channels)?,
        ])
    }

    fn bias(&self, outputs: usize) -> Result<Option<Tensor>> {
        self.shape("bias")
            .map(|_| self.tensor("bias", outputs))
            .transpose()
    }

    /// The tensor here in the type of the placement, with merged LoRA delta.
    fn read(&self, file: &'a Checkpoint) -> Result<LayerWeight<'a>> {
        let device = &self.placement.device;
        let stored = match file.mapped(&self.path) {
            Some(view) => LayerWeight::mapped(view, device)?,
            None => file.load(&self.path, device)?.into(),
        };
        let stored = stored.in_dtype(self.placement.dtype);
        let module = self.path.strip_suffix(".weight");
        let merged = |module| match self.lora {
            Lora::Merged(deltas) => deltas.get(module),
            _ => None,
        };
        let Some(delta) = module.and_then(merged) else {
            return Ok(stored);
        };
        let shape = stored.shape().clone();
        let mismatch = || self.fault(&delta.mismatch(&shape));
        stored.plus(delta)?.ok_or_else(mismatch)
    }

    fn note(&self, tensor: String) {
        if let Some(taken) = self.taken {
            taken.add(tensor);
        }
    }

    /// The result of a tensor operation, whose failure is that of what is here.
    fn named<T>(&self, result: candle_core::Result<T>) -> Result<T> {
        result.map_err(|error| Error::of_operation(error, |reason| self.fault(reason)))
    }

    /// An error that names the file and this position.
    pub fn fault(&self, reason: &str) -> Error {
        match self.source {
            Source::File(file) => file.tensor_fault(&self.path, reason),
            Source::RandomInit(_) => Error::setting(format!("tensor {:?}: {reason}", self.path)),
        }
    }
}
