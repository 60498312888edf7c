//! The layers of an adapter file.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{
    names::{self, Factor, Modules},
    stated_alpha, timesteps, words,
};
use crate::{
    error::{Error, Result},
    io::{Checkpoint, Source},
    layout::Network,
};

/// Alpha of the released adapters, which do not state it: PEFT's default.
pub(crate) const RELEASED_ALPHA: f64 = 8.0;

/// The infix that only PEFT's tensor names contain.
const PEFT: &str = "base_model.model.";

/// One layer that an adapter file modifies.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The network it belongs to.
    pub(crate) network: Network,
    /// Its module path in the network.
    pub(crate) module: String,
    /// The tensor names of its factors in the file.
    pub(crate) down: String,
    pub(crate) up: String,
    /// The LoRA rank.
    pub(crate) rank: usize,
    /// The delta is scaled by alpha / rank.
    pub(crate) alpha: f64,
}

/// Whether a file contains adapter tensors.
pub(crate) fn is_adapter(checkpoint: &Checkpoint) -> bool {
    let names = checkpoint.names();
    let factor = |name: &String| Factor::of(name).map(|(_, factor)| factor);
    names.iter().any(|name| factor(name) == Some(Factor::Down))
}

/// `alpha`, or if it is `None`, the default for an adapter that states none:
/// that of the released adapters if it has PEFT names or states timesteps, else
/// `None`, which means the rank.
pub(crate) fn usual_alpha(
    alpha: Option<f64>,
    file: &Source,
    checkpoint: &Checkpoint,
) -> Result<Option<f64>> {
    if alpha.is_some() {
        return Ok(alpha);
    }
    let is_peft = checkpoint.names().iter().any(|name| name.contains(PEFT));
    let is_released = is_peft || timesteps(file)?.is_some();
    Ok(is_released.then_some(RELEASED_ALPHA))
}

/// The layers of the adapter in `file`, which is opened as `checkpoint`;
/// `alpha` is used if the file states none.
pub(crate) fn layers(
    file: &Source,
    checkpoint: &Checkpoint,
    alpha: Option<f64>,
) -> Result<Vec<Layer>> {
    let alpha = stated_alpha(file)?.or(usual_alpha(alpha, file, checkpoint)?);
    let reason = "have names that are neither PEFT's nor those of diffusers or kohya for Stable \
                  Diffusion";
    read(checkpoint, checkpoint.names(), &place, reason, alpha)
}

/// The layers of an adapter, or only those for `network`, resolved against the
/// network whose tensors are in `base`.
pub(super) fn layers_of(
    checkpoint: &Checkpoint,
    network: Option<Network>,
    base: &Checkpoint,
    alpha: Option<f64>,
) -> Result<Vec<Layer>> {
    let modules = Modules::of(base);
    let place = |name: &str| {
        let (module, factor) = modules.place(name)?;
        Some(((names::network(name), module), factor))
    };
    let mut names = checkpoint.names();
    names.retain(|name| network.is_none_or(|network| names::network(name) == network));
    let reason = "fit no layer of the network, so it belongs to another model";
    read(checkpoint, names, &place, reason, alpha)
}

/// A layer of a network.
type Place = (Network, String);

/// The names of a layer's tensors.
#[derive(Default)]
struct Found {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
}

impl Found {
    fn layer(
        self,
        checkpoint: &Checkpoint,
        (network, module): Place,
        alpha: Option<f64>,
    ) -> Result<Layer> {
        let fault = |reason| {
            let reason = format!("module {module:?}: {reason}");
            Error::adapter(checkpoint.file(), reason)
        };
        let missing = |factor| fault(format!("its {factor} tensor is missing"));
        let down = self.down.ok_or_else(|| missing("lora_A (down)"))?;
        let up = self.up.ok_or_else(|| missing("lora_B (up)"))?;
        let rank = checkpoint
            .shape(&down)
            .and_then(|shape| shape.first().copied());
        let rank = rank.unwrap_or(0);
        let own = self
            .alpha
            .map(|name| scalar(&checkpoint.load(&name, &Device::Cpu)?));
        let alpha = own.transpose()?.or(alpha).unwrap_or(rank as f64);
        if !alpha.is_finite() {
            return Err(fault(format!("its alpha is {alpha}")));
        }
        Ok(Layer {
            network,
            module,
            down,
            up,
            rank,
            alpha,
        })
    }
}

/// Groups tensors by layer; `reason` is the error message for tensors that
/// `place` does not recognise.
fn read(
    checkpoint: &Checkpoint,
    names: Vec<String>,
    place: &dyn Fn(&str) -> Option<(Place, Factor)>,
    reason: &str,
    alpha: Option<f64>,
) -> Result<Vec<Layer>> {
    let mut sorted: BTreeMap<Place, Found> = BTreeMap::new();
    let mut unknown = Vec::new();
    for name in names {
        let Some((place, factor)) = place(&name) else {
            unknown.push(name);
            continue;
        };
        let found = sorted.entry(place).or_default();
        let slot = match factor {
            Factor::Down => &mut found.down,
            Factor::Up => &mut found.up,
            Factor::Alpha => &mut found.alpha,
        };
        if let Some(other) = slot.replace(name.clone()) {
            let reason =
                format!("tensors {other:?} and {name:?} name the same factor of one layer");
            return Err(Error::adapter(checkpoint.file(), reason));
        }
    }
    if !unknown.is_empty() {
        let count = unknown.len();
        let dots = if count > 8 { ", .." } else { "" };
        unknown.truncate(8);
        let reason = format!(
            "{count} of its tensors {reason}: {}{dots}",
            unknown.join(", ")
        );
        return Err(Error::adapter(checkpoint.file(), reason));
    }
    let layers = sorted.into_iter();
    layers
        .map(|(place, found)| found.layer(checkpoint, place, alpha))
        .collect()
}

/// The layer and the role of the tensor `name`.
fn place(name: &str) -> Option<(Place, Factor)> {
    let (module, factor) = Factor::of(name)?;
    let path = names::modern(names::bare(module));
    let path = match module.starts_with("lora_") {
        true => words::dotted(&path)?,
        false => path,
    };
    Some(((names::network(name), path), factor))
}

fn scalar(tensor: &Tensor) -> Result<f64> {
    let value = tensor
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    Ok(value.first().copied().unwrap_or(f64::NAN))
}
