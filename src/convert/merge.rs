//! Adapters as a part of a UNet's weights.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::{Conversion, Input, Lazy};
use crate::{
    error::{Error, Result},
    hub::Reference,
    lora::{Adapter, Network, Reading, usual_alpha},
    model::ADAPTER_FILES,
    nn::{Checkpoint, LowRank, LowRanks, stacked},
};

/// Where merged adapters are noted.
const MERGED: &str = "icd.merged";

impl<'a> Conversion<'a> {
    /// The UNet with adapters in its weights: each is changed by share x alpha /
    /// rank x up x down, added in f32.
    pub(super) fn merged(
        input: &'a Input,
        adapters: &[(String, f64)],
        alpha: Option<f64>,
    ) -> Result<Self> {
        let layers = adapters.iter();
        let layers =
            layers.map(|(text, share)| Ok((read(text, &input.checkpoint, alpha)?, *share)));
        let mut changes = stacked(&layers.collect::<Result<Vec<_>>>()?)?;
        let stored = Self::stored(input)?;
        let merged = |tensor: Lazy<'a>| {
            let module = tensor.name.strip_suffix(".weight");
            match module.and_then(|module| changes.remove(module)) {
                Some(change) => with_change(&input.checkpoint, tensor, change),
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

/// The changes of the UNet in an adapter's file.
fn read(text: &str, unet: &Checkpoint, alpha: Option<f64>) -> Result<LowRanks> {
    let source = Reference::parse(text, Path::new(""))?.file(&ADAPTER_FILES)?;
    let alpha = match alpha {
        Some(alpha) => Some(alpha),
        None => usual_alpha(&source, &Checkpoint::open(&source)?)?,
    };
    let reading = Reading {
        alpha,
        rounding: DType::F32,
    };
    let adapter = Adapter::read_part(&source, Network::Unet, unet, reading)?;
    match adapter.changes().is_empty() {
        true => Err(Error::adapter(source, "it changes nothing in a UNet")),
        false => Ok(adapter.changes().clone()),
    }
}

fn with_change<'a>(unet: &'a Checkpoint, weight: Lazy<'a>, change: LowRank) -> Lazy<'a> {
    let name = weight.name.clone();
    let merged = move |stored: &Tensor| {
        change.merged_into(stored)?.ok_or_else(|| {
            unet.fault(format!(
                "tensor {name:?}: its shape is {:?}, but the adapter's factors are {:?} and {:?}: \
                 the adapter belongs to another model",
                stored.dims(),
                change.down.dims(),
                change.up.dims()
            ))
        })
    };
    weight.changed(merged)
}

/// The adapters by their files' names, with their shares.
fn told(adapters: &[(String, f64)]) -> String {
    let told = adapters.iter().map(|(text, share)| {
        let name = Path::new(text).file_name().unwrap_or_default();
        format!("{}={share}", name.to_string_lossy())
    });
    told.collect::<Vec<_>>().join(", ")
}
