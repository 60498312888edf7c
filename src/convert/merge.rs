//! Merges adapters into a UNet's weights.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::{Conversion, Input, Lazy, narrow};
use crate::{
    error::Result,
    hub::Location,
    io::Checkpoint,
    lora::{Adapter, AdapterOptions, WeightedLora},
    model::ADAPTER_FILES,
    nn::{
        LayerWeight, LoraDelta,
        ops::{Ops, Packed},
        sum_of,
    },
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
        let (mut layers, mut remarks) = (Vec::new(), Vec::new());
        for lora in adapters {
            let adapter = read(lora, input, alpha)?;
            layers.push(adapter.deltas().clone());
            remarks.extend_from_slice(adapter.notes());
        }
        let mut changes = sum_of(layers)?;
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
            remarks,
        })
    }
}

/// The UNet's part of an adapter file.
fn read(lora: &WeightedLora, input: &Input, alpha: Option<f64>) -> Result<Adapter> {
    let (unet, cache) = (&input.checkpoint, &input.cache);
    let source = Location::parse(&lora.file, Path::new(""), cache)?.file(&ADAPTER_FILES)?;
    let options = AdapterOptions {
        alpha,
        weight: lora.weight,
        rounding: DType::F32,
    };
    Adapter::read(&source, unet, options)
}

fn with_lora<'a>(unet: &'a Checkpoint, weight: Lazy<'a>, change: LoraDelta) -> Lazy<'a> {
    let name = weight.name.clone();
    let merged = move |stored: &Tensor| {
        let mismatch = || unet.tensor_fault(&name, &change.mismatch(stored.shape()));
        let weight = LayerWeight::from(stored.clone()).in_dtype(DType::F32);
        let merged = Packed::F32.merge(&weight.plus(&change)?.ok_or_else(mismatch)?)?;
        match narrow::lost(stored, &merged)? {
            Some(value) => {
                let reason = format!("with the adapter, its value {value} is not finite any more");
                Err(unet.tensor_fault(&name, &reason))
            }
            None => Ok(merged),
        }
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
