//! The scale of an adapter's layers: one rule for every use of an adapter.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    ALPHA, DIFFUSERS_METADATA, RELEASED_ALPHA,
    settings::{Fields, LoraSettings},
    timesteps,
};
use crate::{
    error::{Error, Result},
    io::{Checkpoint, Metadata, Source, safetensors_metadata},
    layout::Network,
};

/// The name of PEFT's configuration, and of the weights that it belongs to.
pub(crate) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model";

/// The infix that only PEFT's tensor names contain.
const PEFT: &str = "base_model.model.";

/// The factor of a layer's product: alpha / rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    /// Alpha; with rsLoRA, the one that gives alpha / sqrt(rank) when divided by the rank.
    pub(crate) alpha: f64,
    rank: f64,
}

impl Scale {
    pub(crate) fn value(self) -> f64 {
        self.alpha / self.rank.max(1.0)
    }
}

/// What the scale of a layer depends on in the layer itself.
pub(super) struct Scaled<'a> {
    pub(super) network: Network,
    /// The module as the file spells its path.
    pub(super) module: &'a str,
    /// The rank that its tensors show.
    pub(super) rank: Option<usize>,
    /// The value of its alpha tensor.
    pub(super) alpha: Option<f64>,
}

/// What is stated about the scales of a file's layers, in the order in which it counts.
#[derive(Debug)]
pub(super) struct Scales(Vec<Statement>);

#[derive(Debug)]
enum Statement {
    /// PEFT's configuration beside the file, or the one in its metadata by network.
    Settings(PathBuf, Settings),
    /// One alpha for all layers.
    Alpha(f64),
}

#[derive(Debug)]
enum Settings {
    OfAll(LoraSettings),
    OfNetworks(BTreeMap<Network, LoraSettings>),
}

impl Settings {
    fn of(&self, network: Network) -> Option<&LoraSettings> {
        match self {
            Self::OfAll(settings) => Some(settings),
            Self::OfNetworks(all) => all.get(&network),
        }
    }
}

impl Scales {
    /// Reads what is stated: PEFT's configuration beside the file, that in its metadata,
    /// icd's own alpha, then `given`.
    pub(super) fn read(file: &Source, given: Option<f64>) -> Result<Self> {
        let metadata = safetensors_metadata(file)?;
        let mut all = Vec::new();
        all.extend(of_diffusers(file, &metadata)?);
        all.extend(own_alpha(file, &metadata)?.map(Statement::Alpha));
        match config_beside(file).map(|config| (owner(file), config)) {
            Some((Owner::ThisFile, config)) => all.insert(0, beside(&config)?),
            // The file may have been renamed; what it says itself comes first.
            Some((Owner::Unknown, config)) => all.push(beside(&config)?),
            Some((Owner::Another, _)) | None => {}
        }
        all.extend(given.map(Statement::Alpha));
        Ok(Self(all))
    }

    /// The scale of a layer: that of its alpha tensor, else the first that is stated; `None`
    /// if none is.
    pub(super) fn of(&self, layer: &Scaled) -> Result<Option<Scale>> {
        let rank = layer.rank.map(|rank| rank as f64);
        // Without a rank, as in a LoKr of whole matrices, there is nothing to divide by.
        let by_rank = |alpha| Scale {
            alpha: if rank.is_some() { alpha } else { 1.0 },
            rank: rank.unwrap_or(1.0),
        };
        if let Some(alpha) = layer.alpha {
            return Ok(Some(by_rank(alpha)));
        }
        for statement in &self.0 {
            match statement {
                Statement::Alpha(alpha) => return Ok(Some(by_rank(*alpha))),
                Statement::Settings(file, settings) => {
                    if let Some(settings) = settings.of(layer.network) {
                        return of_settings(file, settings, layer).map(Some);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether the layers of a network are said to have magnitudes.
    pub(super) fn use_dora(&self, network: Network) -> bool {
        let settings = self.0.iter().find_map(|statement| match statement {
            Statement::Settings(_, settings) => settings.of(network),
            Statement::Alpha(_) => None,
        });
        settings.is_some_and(|settings| settings.use_dora)
    }
}

fn of_settings(file: &PathBuf, settings: &LoraSettings, layer: &Scaled) -> Result<Scale> {
    let fault = |reason| Error::config(file, format!("layer {:?}: {reason}", layer.module));
    let (alpha, rank) = settings.layer(layer.module, layer.rank).map_err(fault)?;
    let root = if settings.use_rslora {
        rank.sqrt()
    } else {
        1.0
    };
    let alpha = alpha * root;
    Ok(Scale { alpha, rank })
}

/// The scale of layers whose file states none: alpha is that of the published adapters,
/// and PEFT's default, if the file has PEFT's names or states timesteps; else the rank, as
/// in other programs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum DefaultScale {
    Released,
    Rank,
}

impl DefaultScale {
    pub(super) fn of(file: &Source, checkpoint: &Checkpoint) -> Result<Self> {
        let is_peft = checkpoint.names().iter().any(|name| name.contains(PEFT));
        Ok(match is_peft || timesteps(file)?.is_some() {
            true => Self::Released,
            false => Self::Rank,
        })
    }

    pub(super) fn scale(self, rank: Option<usize>) -> Scale {
        let rank = rank.unwrap_or(1) as f64;
        let alpha = match self {
            Self::Released => RELEASED_ALPHA,
            Self::Rank => rank,
        };
        Scale { alpha, rank }
    }

    /// The alpha, in words.
    pub(super) fn told(self) -> String {
        match self {
            Self::Released => format!("{RELEASED_ALPHA} is taken, PEFT's default"),
            Self::Rank => "the rank is taken, which is a scale of 1".into(),
        }
    }
}

/// PEFT's configuration in the file's folder.
pub(crate) fn config_beside(file: &Source) -> Option<Source> {
    let beside = file.name().with_file_name(CONFIG);
    (file.in_program().is_none() && beside.is_file()).then(|| beside.into())
}

/// Whose configuration it is that lies beside a file.
enum Owner {
    ThisFile,
    Another,
    Unknown,
}

/// PEFT's name for weights tells whose a configuration is.
fn owner(file: &Source) -> Owner {
    let beside = |ending| file.name().with_file_name(format!("{WEIGHTS}.{ending}"));
    let is_peft = file.name().file_stem().is_some_and(|stem| stem == WEIGHTS);
    match ["safetensors", "bin"]
        .map(beside)
        .iter()
        .any(|other| other.is_file())
    {
        _ if is_peft => Owner::ThisFile,
        true => Owner::Another,
        false => Owner::Unknown,
    }
}

fn beside(config: &Source) -> Result<Statement> {
    let fault = |reason: String| Error::config(config, reason);
    let fields = serde_json::from_str(&config.text()?);
    let fields: Fields = fields.map_err(|error| fault(error.to_string()))?;
    let settings = Settings::OfAll(LoraSettings::of(&fields).map_err(fault)?);
    Ok(Statement::Settings(config.name().into(), settings))
}

/// The configuration that diffusers writes, in JSON: fields under the folder of their
/// network, or of all networks.
fn of_diffusers(file: &Source, metadata: &Metadata) -> Result<Option<Statement>> {
    const NETWORKS: [Network; 3] = [
        Network::Unet,
        Network::TextEncoder(0),
        Network::TextEncoder(1),
    ];
    let Some(text) = metadata.get(DIFFUSERS_METADATA) else {
        return Ok(None);
    };
    let fault = |reason: String| Error::adapter(file, format!("{DIFFUSERS_METADATA}: {reason}"));
    let fields = serde_json::from_str(text);
    let fields: Fields = fields.map_err(|error| fault(error.to_string()))?;
    let mut all = BTreeMap::new();
    for network in NETWORKS {
        let own = fields.below(&format!("{}.", network.folder()));
        if !own.is_empty() {
            all.insert(network, LoraSettings::of(&own).map_err(&fault)?);
        }
    }
    let settings = match all.is_empty() {
        true if fields.is_empty() => return Ok(None),
        true => Settings::OfAll(LoraSettings::of(&fields).map_err(fault)?),
        false => Settings::OfNetworks(all),
    };
    Ok(Some(Statement::Settings(file.name().into(), settings)))
}

/// Alpha under icd's own key.
fn own_alpha(file: &Source, metadata: &Metadata) -> Result<Option<f64>> {
    let read = |text: &String| {
        let alpha = text.parse().ok().filter(|alpha: &f64| alpha.is_finite());
        let reason = || format!("{ALPHA} is {text:?}, which is not a finite number");
        alpha.ok_or_else(|| Error::adapter(file, reason()))
    };
    metadata.get(ALPHA).map(read).transpose()
}
