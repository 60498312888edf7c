//! The layers of an adapter file by themselves, without a network to fit.

use std::collections::BTreeMap;

use candle_core::Device;

use super::{
    list, names,
    names::{Factor, Network},
    scalar, stated_alpha, stated_path, words,
};
use crate::{
    error::{Error, Result},
    nn::Checkpoint,
    source::Source,
};

/// Alpha of the released adapters, which do not state it: PEFT's default.
pub(crate) const RELEASED_ALPHA: f64 = 8.0;

/// What names of PEFT have, and no others.
const PEFT: &str = "base_model.model.";

/// One layer that an adapter file changes.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Whose layer it is.
    pub(crate) network: Network,
    /// Its path in the network.
    pub(crate) module: String,
    /// The names of its factors in the file.
    pub(crate) down: String,
    pub(crate) up: String,
    /// Channels between the factors.
    pub(crate) rank: usize,
    /// The change is multiplied by alpha / rank.
    pub(crate) alpha: f64,
}

/// Whether a file has tensors of an adapter.
pub(crate) fn is_adapter(checkpoint: &Checkpoint) -> bool {
    let names = checkpoint.names();
    let factor = |name: &String| Factor::of(name).map(|(_, factor)| factor);
    names.iter().any(|name| factor(name) == Some(Factor::Down))
}

/// Alpha where the adapter `file` states none: that of the released adapters
/// for those that PEFT named or that tell a path; of others, which mean their
/// rank, there is none.
pub(crate) fn usual_alpha(file: &Source, checkpoint: &Checkpoint) -> Result<Option<f64>> {
    let is_peft = checkpoint.names().iter().any(|name| name.contains(PEFT));
    let is_released = is_peft || stated_path(file)?.is_some();
    Ok(is_released.then_some(RELEASED_ALPHA))
}

/// The layers of the adapter in `file`, which is opened as `checkpoint`;
/// `alpha` is that of a file that states none.
pub(crate) fn layers(
    file: &Source,
    checkpoint: &Checkpoint,
    alpha: Option<f64>,
) -> Result<Vec<Layer>> {
    let usual = alpha.map_or_else(|| usual_alpha(file, checkpoint), |alpha| Ok(Some(alpha)))?;
    let alpha = stated_alpha(file)?.or(usual);
    let sorted = sorted(checkpoint)?.into_iter();
    sorted
        .map(|(place, found)| found.layer(checkpoint, place, alpha))
        .collect()
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

fn sorted(checkpoint: &Checkpoint) -> Result<BTreeMap<Place, Found>> {
    let mut sorted: BTreeMap<Place, Found> = BTreeMap::new();
    let mut strangers = Vec::new();
    for name in checkpoint.names() {
        let Some((place, factor)) = place(&name) else {
            strangers.push(name);
            continue;
        };
        let found = sorted.entry(place).or_default();
        let slot = match factor {
            Factor::Down => &mut found.down,
            Factor::Up => &mut found.up,
            Factor::Alpha => &mut found.alpha,
        };
        if let Some(other) = slot.replace(name.clone()) {
            let reason = format!("tensors {other:?} and {name:?} are the same of one layer");
            return Err(Error::adapter(checkpoint.file(), reason));
        }
    }
    match strangers.is_empty() {
        true => Ok(sorted),
        false => Err(Error::adapter(checkpoint.file(), unknown(strangers))),
    }
}

/// The layer and the role of the tensor `name`.
fn place(name: &str) -> Option<(Place, Factor)> {
    let (module, factor) = Factor::of(name)?;
    let path = names::modern(names::bare(module));
    let path = match module.starts_with("lora_") {
        true => words::dotted(&path)?,
        false => path,
    };
    Some(((Network::of(name), path), factor))
}

fn unknown(strangers: Vec<String>) -> String {
    let (count, names) = list(strangers);
    format!(
        "{count} of its tensors have names that are neither PEFT's nor those of diffusers or \
         kohya for Stable Diffusion: {names}"
    )
}
