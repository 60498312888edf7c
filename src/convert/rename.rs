//! Converts adapters between naming conventions.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::{Conversion, Input, Lazy, notes};
use crate::{
    error::Result,
    io::Metadata,
    layout::Network,
    lora::{ALPHA, DIFFUSERS_METADATA, Factor, Layer, Naming, layers},
};

impl<'a> Conversion<'a> {
    /// The adapter in another naming convention, with the same deltas.
    ///
    /// kohya's files store an alpha per layer, the others a single one: the
    /// largest is used, and the factors of the other layers are scaled down.
    pub(super) fn renamed(input: &'a Input, naming: Naming, alpha: Option<f64>) -> Result<Self> {
        let layers = layers(&input.source, &input.checkpoint, alpha)?;
        let texts = layers.iter().map(|layer| match layer.network {
            Network::TextEncoder(index) => index + 1,
            _ => 0,
        });
        let encoders = texts.max().unwrap_or(0);
        let alphas = layers.iter().map(|layer| layer.alpha);
        let alpha = alphas.max_by(|a, b| a.abs().total_cmp(&b.abs()));
        let alpha = alpha.unwrap_or(0.0);
        let mut tensors = Vec::new();
        for layer in &layers {
            let named = Named {
                input,
                layer,
                naming,
                encoders,
            };
            tensors.extend(named.tensors(alpha)?);
        }
        Ok(Self {
            tensors,
            notes: renamed_notes(notes(input)?, naming, &layers, alpha),
        })
    }
}

/// One layer under its new names.
struct Named<'a, 'b> {
    input: &'a Input,
    layer: &'b Layer,
    naming: Naming,
    encoders: usize,
}

impl<'a> Named<'a, '_> {
    fn tensors(&self, alpha: f64) -> Result<Vec<Lazy<'a>>> {
        let layer = self.layer;
        let down = self.factor(&layer.down, Factor::Down)?;
        let up = self.factor(&layer.up, Factor::Up)?;
        let file = &self.input.checkpoint;
        Ok(match self.naming {
            Naming::Kohya => vec![
                down,
                up,
                Lazy::number(file, self.name(Factor::Alpha), layer.alpha),
            ],
            _ if layer.alpha.total_cmp(&alpha).is_eq() => vec![down, up],
            _ => vec![down, times(up, layer.alpha / alpha)],
        })
    }

    fn factor(&self, name: &str, factor: Factor) -> Result<Lazy<'a>> {
        let stored = Lazy::stored(&self.input.checkpoint, name)?;
        Ok(stored.named(self.name(factor)))
    }

    fn name(&self, factor: Factor) -> String {
        let place = (self.layer.network, &self.layer.module[..]);
        self.naming.tensor(place, factor, self.encoders)
    }
}

fn times(tensor: Lazy<'_>, share: f64) -> Lazy<'_> {
    let scaled = move |stored: &Tensor| {
        let wide = stored.to_dtype(DType::F32)?;
        Ok((wide * share)?)
    };
    tensor.changed(scaled)
}

/// The file's metadata, with alpha as the naming convention requires.
fn renamed_notes(mut notes: Metadata, naming: Naming, layers: &[Layer], alpha: f64) -> Metadata {
    notes.remove(ALPHA);
    notes.remove(DIFFUSERS_METADATA);
    if naming != Naming::Kohya {
        notes.insert(ALPHA.into(), alpha.to_string());
    }
    if naming == Naming::Diffusers {
        notes.insert(
            DIFFUSERS_METADATA.into(),
            configuration(layers, alpha).to_string(),
        );
    }
    notes
}

/// The LoRA configuration of each network, in diffusers' format.
fn configuration(layers: &[Layer], alpha: f64) -> Value {
    let mut networks: BTreeMap<Network, Vec<&Layer>> = BTreeMap::new();
    for layer in layers {
        networks.entry(layer.network).or_default().push(layer);
    }
    let mut fields = Map::new();
    for (network, layers) in networks {
        let rank = layers.iter().map(|layer| layer.rank).max().unwrap_or(0);
        let others = layers.iter().filter(|layer| layer.rank != rank);
        let others = others.map(|layer| (layer.module.clone(), json!(layer.rank)));
        let modules: Vec<_> = layers.iter().map(|layer| &layer.module).collect();
        let mut set = |name: &str, value: Value| {
            fields.insert(format!("{}.{name}", network.folder()), value);
        };
        set("r", json!(rank));
        set("lora_alpha", json!(alpha));
        set("rank_pattern", Value::Object(others.collect()));
        set("target_modules", json!(modules));
    }
    Value::Object(fields)
}
