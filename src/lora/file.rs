//! An adapter file: its tensors sorted by layer, and placed in the networks of a model.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::DType;

use super::{
    factor::Factor,
    foreign,
    layers::{Form, Found, Layer, Place},
    names::{Modules, Name, Owner},
    scale::{DefaultScale, Scale, Scales},
};
use crate::{
    error::{Error, Result},
    io::{Checkpoint, Source},
    layout::Network,
    nn::LoraDeltas,
};

/// A network that an adapter may modify, and its weights.
pub(crate) type Base<'a> = (Network, &'a Checkpoint);

/// An adapter file, opened.
pub(crate) struct AdapterFile {
    checkpoint: Checkpoint,
    names: Vec<Name>,
    /// The names that are not those of an adapter's tensors.
    others: Vec<String>,
    scales: Scales,
    default: DefaultScale,
}

/// Whether a file contains adapter tensors.
pub(crate) fn is_adapter(checkpoint: &Checkpoint) -> bool {
    let names = checkpoint.names();
    let factor = |name: &String| Factor::of(name).map(|(_, factor)| factor);
    let is_alpha = |factor: &Factor| *factor == Factor::Alpha;
    names
        .iter()
        .filter_map(factor)
        .any(|factor| !is_alpha(&factor))
}

impl AdapterFile {
    /// Opens a file; `alpha` is that of its layers if it states none.
    pub(crate) fn open(source: &Source, alpha: Option<f64>) -> Result<Self> {
        let checkpoint = Checkpoint::open(source)?;
        let (mut names, mut others) = (Vec::new(), Vec::new());
        for name in checkpoint.names() {
            match Name::of(&name) {
                Some(name) => names.push(name),
                None => others.push(name),
            }
        }
        if names.is_empty() && others.is_empty() {
            return Err(Error::adapter(source, "it holds no adapter tensors"));
        }
        Ok(Self {
            names,
            others,
            scales: Scales::read(source, alpha)?,
            default: DefaultScale::of(source, &checkpoint)?,
            checkpoint,
        })
    }

    /// The layers by the paths that their names tell, without a network to look them up in.
    pub(crate) fn layers(&self) -> Result<Vec<Layer>> {
        let mut sorted = Sorted::default();
        let mut strangers = self.others.clone();
        for name in &self.names {
            match name.path() {
                Some(path) => sorted.add((name.network(), path), name, &self.checkpoint)?,
                None => strangers.push(name.tensor.clone()),
            }
        }
        let reason = "have names that are neither PEFT's nor those of diffusers or kohya for \
                      Stable Diffusion";
        self.refuse(&strangers, reason)?;
        self.complete(sorted)
    }

    /// The layers in the networks of a model. Tensors for other networks are left out; all
    /// others must have a layer.
    pub(crate) fn placed<'a>(&'a self, networks: &'a [Base<'a>]) -> Result<Placed<'a>> {
        let modules = networks.iter();
        let modules: BTreeMap<_, _> = modules
            .map(|(network, base)| (*network, Modules::of(base)))
            .collect();
        let encoder = self.encoder(networks, &modules);
        let mut sorted = Sorted::default();
        let (mut strangers, mut left_out) = (self.others.clone(), Vec::new());
        for name in &self.names {
            let network = match name.owner {
                Owner::Network(network) => network,
                Owner::SomeTextEncoder => encoder,
            };
            match modules.get(&network).map(|modules| modules.path(name)) {
                Some(Some(path)) => {
                    sorted.add((network, path.clone()), name, &self.checkpoint)?;
                }
                Some(None) => strangers.push(name.tensor.clone()),
                None => left_out.push(network),
            }
        }
        self.refuse(&strangers, &foreign_to(networks))?;
        let placed = Placed {
            file: self,
            networks,
            layers: self.complete(sorted)?,
            left_out,
        };
        placed.check()
    }

    /// The layers, which must have the magnitudes that the configuration promises.
    fn complete(&self, sorted: Sorted) -> Result<Vec<Layer>> {
        let layers = sorted.layers(&self.checkpoint)?;
        let lacks = |layer: &&Layer| self.scales.use_dora(layer.network) && !layer.has_magnitudes();
        match layers.iter().find(lacks) {
            Some(layer) => {
                let reason = "use_dora is true, but its lora_magnitude_vector is missing";
                Err(layer.fault(&self.checkpoint, reason))
            }
            None => Ok(layers),
        }
    }

    /// The text encoder of tensors whose names do not say which: the first with all their
    /// layers, in their width.
    fn encoder(&self, networks: &[Base], modules: &BTreeMap<Network, Modules>) -> Network {
        let fits = |&&(network, base): &&Base| {
            let own = self
                .names
                .iter()
                .filter(|name| name.owner == Owner::SomeTextEncoder);
            let fits = |name: &Name| {
                let path = modules[&network].path(name)?;
                let rows = base.shape(&format!("{path}.weight"))?.first().copied();
                let up = self.checkpoint.shape(&name.tensor)?.first().copied();
                (name.factor != Factor::Up || rows == up).then_some(())
            };
            matches!(network, Network::TextEncoder(_)) && own.map(fits).all(|fit| fit.is_some())
        };
        let found = networks.iter().find(fits);
        found.map_or(Network::TextEncoder(0), |(network, _)| *network)
    }

    /// An error that names tensors without a layer, if there are any.
    fn refuse(&self, strangers: &[String], reason: &str) -> Result<()> {
        if strangers.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = strangers.iter().take(8).map(String::as_str).collect();
        let dots = if strangers.len() > 8 { ", .." } else { "" };
        let kind = strangers.iter().find_map(|name| foreign::kind(name));
        let told = match kind {
            Some(kind) => format!("it holds {kind}, which is not supported"),
            None => format!("{} of its tensors {reason}", strangers.len()),
        };
        let reason = format!("{told}: {}{dots}", shown.join(", "));
        Err(Error::adapter(self.checkpoint.file(), reason))
    }

    /// The scale of a layer: the one rule for every use of an adapter.
    pub(crate) fn scale(&self, layer: &Layer) -> Result<Scale> {
        let stated = self.stated_scale(layer)?;
        Ok(stated.unwrap_or_else(|| self.default.scale(layer.rank)))
    }

    fn stated_scale(&self, layer: &Layer) -> Result<Option<Scale>> {
        self.scales.of(&layer.scaled(&self.checkpoint)?)
    }

    /// An error unless every layer is the plain product of two factors.
    pub(crate) fn check_plain(&self, layers: &[Layer]) -> Result<()> {
        match layers.iter().find(|layer| !layer.is_plain()) {
            Some(layer) => {
                let kind = match (layer.has_magnitudes(), layer.form) {
                    (true, _) => "a DoRA",
                    (false, Form::Lora) => "a convolution in CP form",
                    (false, form) => form.name(),
                };
                let reason = format!(
                    "it is {kind}, and only plain LoRA has several namings: apply the file as it \
                     is, or merge it into a UNet"
                );
                Err(layer.fault(&self.checkpoint, &reason))
            }
            None => Ok(()),
        }
    }

    /// What to know if the scale of any of these layers is not stated.
    pub(crate) fn note_of_scale(&self, layers: &[Layer]) -> Result<Option<String>> {
        for layer in layers {
            if self.stated_scale(layer)?.is_none() {
                let alpha = self.default.told();
                return Ok(Some(
                    self.told(&format!("it does not state its alpha: {alpha}")),
                ));
            }
        }
        Ok(None)
    }

    fn told(&self, what: &str) -> String {
        format!("adapter {}: {what}", self.checkpoint.file().display())
    }
}

fn foreign_to(networks: &[Base]) -> String {
    let told = networks
        .iter()
        .map(|(network, base)| format!("the {network} in {}", base.file().display()));
    let told: Vec<_> = told.collect();
    format!(
        "fit no layer of {}, so one of them belongs to another model",
        told.join(" or ")
    )
}

/// The tensors of a file by layer.
#[derive(Default)]
struct Sorted(BTreeMap<Place, Found>);

impl Sorted {
    /// Adds a tensor; a factor that is there already is an error that names both.
    fn add(&mut self, place: Place, name: &Name, file: &Checkpoint) -> Result<()> {
        let found = self.0.entry(place).or_default();
        let tensor = &name.tensor;
        found
            .add(name.factor, tensor.clone(), &name.module)
            .map_err(|other| {
                let reason =
                    format!("tensors {other:?} and {tensor:?} name the same factor of one layer");
                Error::adapter(file.file(), reason)
            })
    }

    fn layers(self, file: &Checkpoint) -> Result<Vec<Layer>> {
        let layers = self.0.into_iter();
        layers
            .map(|(place, found)| found.layer(place, file))
            .collect()
    }
}

/// The layers of an adapter file in the networks of a model.
pub(crate) struct Placed<'a> {
    file: &'a AdapterFile,
    networks: &'a [Base<'a>],
    layers: Vec<Layer>,
    /// The networks of the tensors that are left out.
    left_out: Vec<Network>,
}

impl Placed<'_> {
    /// Fails if the adapter changes nothing.
    fn check(self) -> Result<Self> {
        let file = &self.file.checkpoint;
        if self.layers.is_empty() {
            let reason = format!(
                "all its tensors are for the {}, which it is not applied to",
                self.others()
            );
            return Err(Error::adapter(file.file(), reason));
        }
        Ok(self)
    }

    /// The deltas for a network by module path, the scale of each layer times `weight`, from
    /// factors rounded to `rounding`.
    pub(crate) fn deltas(
        &self,
        network: Network,
        weight: f64,
        rounding: DType,
    ) -> Result<LoraDeltas> {
        let mut deltas = LoraDeltas::new();
        let Some((_, base)) = self.networks.iter().find(|(own, _)| *own == network) else {
            return Ok(deltas);
        };
        for layer in self.layers.iter().filter(|layer| layer.network == network) {
            let scale = self.file.scale(layer)?.value() * weight;
            let delta = layer.delta(&self.file.checkpoint, base, scale, rounding)?;
            deltas.insert(layer.module.clone(), delta);
        }
        Ok(deltas)
    }

    /// What a user should know: a scale that is not stated, and tensors that are left out.
    pub(crate) fn notes(&self) -> Result<Vec<String>> {
        let mut notes: Vec<_> = self.file.note_of_scale(&self.layers)?.into_iter().collect();
        if !self.left_out.is_empty() {
            let count = self.left_out.len();
            let what = format!(
                "{count} of its tensors are left out: they are for the {}",
                self.others()
            );
            notes.push(self.file.told(&what));
        }
        Ok(notes)
    }

    /// The networks that are left out, in words.
    fn others(&self) -> String {
        let networks: BTreeSet<_> = self.left_out.iter().collect();
        let told: Vec<_> = networks.iter().map(ToString::to_string).collect();
        told.join(" and the ")
    }
}
