//! Converts adapters between naming conventions.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::{Conversion, Input, Lazy, notes};
use crate::{
    error::Result,
    io::Metadata,
    layout::Network,
    lora::{ALPHA, AdapterFile, DIFFUSERS_METADATA, Factor, Layer, Naming},
};

impl<'a> Conversion<'a> {
    /// The adapter in another naming convention, with the same deltas.
    ///
    /// kohya's files store an alpha per layer, the others a single one: the
    /// largest is used, and the factors of the other layers are scaled down.
    pub(super) fn renamed(input: &'a Input, naming: Naming, alpha: Option<f64>) -> Result<Self> {
        let file = AdapterFile::open(&input.source, alpha)?;
        let layers = file.layers()?;
        file.check_plain(&layers)?;
        let remarks = file.note_of_scale(&layers)?.into_iter().collect();
        let alphas = layers.iter().map(|layer| Ok(file.scale(layer)?.alpha));
        let alphas: Vec<f64> = alphas.collect::<Result<_>>()?;
        let texts = layers.iter().map(|layer| match layer.network {
            Network::TextEncoder(index) => index + 1,
            _ => 0,
        });
        let encoders = texts.max().unwrap_or(0);
        let largest = alphas.iter().copied();
        let largest = largest.max_by(|a, b| a.abs().total_cmp(&b.abs()));
        let largest = largest.unwrap_or(0.0);
        let mut tensors = Vec::new();
        for (layer, alpha) in layers.iter().zip(alphas) {
            let named = Named {
                input,
                layer,
                alpha,
                naming,
                encoders,
            };
            tensors.extend(named.tensors(largest)?);
        }
        Ok(Self {
            tensors,
            notes: renamed_notes(notes(input)?, naming, &layers, largest),
            remarks,
        })
    }
}

/// One layer under its new names.
struct Named<'a, 'b> {
    input: &'a Input,
    layer: &'b Layer,
    alpha: f64,
    naming: Naming,
    encoders: usize,
}

impl<'a> Named<'a, '_> {
    fn tensors(&self, alpha: f64) -> Result<Vec<Lazy<'a>>> {
        let down = self.factor(Factor::Down)?;
        let up = self.factor(Factor::Up)?;
        let file = &self.input.checkpoint;
        Ok(match self.naming {
            Naming::Kohya => vec![
                down,
                up,
                Lazy::number(file, self.name(Factor::Alpha), self.alpha),
            ],
            _ if self.alpha.total_cmp(&alpha).is_eq() => vec![down, up],
            _ => vec![down, times(up, self.alpha / alpha)],
        })
    }

    fn factor(&self, factor: Factor) -> Result<Lazy<'a>> {
        let name = self
            .layer
            .tensor(factor)
            .expect("a plain layer has both factors");
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
        let rank = layers.iter().filter_map(|layer| layer.rank).max();
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
