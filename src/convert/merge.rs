//! Merges adapters into a UNet's weights.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::{Conversion, Input, Lazy};
use crate::{
    error::{Error, Result},
    hub::Location,
    io::Checkpoint,
    layout::Network,
    lora::{Adapter, AdapterOptions, WeightedLora, usual_alpha},
    model::ADAPTER_FILES,
    nn::{LoraDelta, LoraDeltas, ops::Packed, sum_of},
};

/// The metadata key that lists the merged adapters.
const MERGED: &str = "icd.merged";

impl<'a> Conversion<'a> {
    /// The UNet with adapters merged into its weights: weight x alpha / rank x
    /// up x down is added to each, in f32.
    pub(super) fn merged(
        input: &'a Input,
        adapters: &[WeightedLora],
        alpha: Option<f64>,
    ) -> Result<Self> {
        let layers = adapters.iter();
        let layers = layers.map(|lora| Ok((read(&lora.file, input, alpha)?, lora.weight)));
        let mut changes = sum_of(&layers.collect::<Result<Vec<_>>>()?)?;
        let stored = Self::stored(input)?;
        let merged = |tensor: Lazy<'a>| {
            let module = tensor.name.strip_suffix(".weight");
            match module.and_then(|module| changes.remove(module)) {
                Some(change) => with_lora(&input.checkpoint, tensor, change),
                None => tensor,
            }
        };
        let mut notes = stored.notes;
        let below = notes.remove(MERGED).map(|below| format!("{below}, "));
        notes.insert(MERGED.into(), below.unwrap_or_default() + &told(adapters));
        Ok(Self {
            tensors: stored.tensors.into_iter().map(merged).collect(),
            notes,
        })
    }
}

/// The UNet deltas of an adapter file.
fn read(text: &str, input: &Input, alpha: Option<f64>) -> Result<LoraDeltas> {
    let (unet, cache) = (&input.checkpoint, &input.cache);
    let source = Location::parse(text, Path::new(""), cache)?.file(&ADAPTER_FILES)?;
    let options = AdapterOptions {
        alpha: usual_alpha(alpha, &source, &Checkpoint::open(&source)?)?,
        rounding: DType::F32,
    };
    let adapter = Adapter::read_part(&source, Network::Unet, unet, options)?;
    match adapter.deltas().is_empty() {
        true => Err(Error::adapter(source, "it has no layers of a UNet")),
        false => Ok(adapter.deltas().clone()),
    }
}

fn with_lora<'a>(unet: &'a Checkpoint, weight: Lazy<'a>, change: LoraDelta) -> Lazy<'a> {
    let name = weight.name.clone();
    let merged = move |stored: &Tensor| {
        let mismatch = || unet.tensor_fault(&name, &change.mismatch(stored));
        change.merged_into(&Packed, stored)?.ok_or_else(mismatch)
    };
    weight.changed(merged)
}

/// The file names of the adapters, with their weights.
fn told(adapters: &[WeightedLora]) -> String {
    let told = adapters.iter().map(|lora| {
        let name = Path::new(&lora.file).file_name().unwrap_or_default();
        format!("{}={}", name.to_string_lossy(), lora.weight)
    });
    told.collect::<Vec<_>>().join(", ")
}
