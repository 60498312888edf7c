//! Where the parts of a model are: presets, model folders with their
//! `icd.toml`, and the choices that override both.

use std::path::Path as FilePath;

use serde::Deserialize;

use super::{
    Family, diffusers, is_model_folder,
    presets::{Preset, Variant},
    recipe::Recipe,
    shapes,
    single::{self, Part},
    unet::UnetConfig,
    vae::Tiling,
};
use crate::{
    error::{Error, Result},
    guidance::Tau,
    hub::{Home, Reference, Repository},
    lora::RELEASED_ALPHA,
    nn::Checkpoint,
    schedule::Steps,
    source::Source,
};

/// What a person says of the model: a name or folder, and overrides. Paths
/// are as typed, or `hub:owner/name[/file]`.
#[derive(Clone, Debug, Default)]
pub struct ModelChoice {
    /// `sd15`, `sdxl`, `shapes`, or a folder in the diffusers layout, here or
    /// as `hub:owner/name`.
    pub model: String,
    /// A preset's adapter pair.
    pub variant: Option<Variant>,
    /// Another UNet.
    pub unet: Option<String>,
    /// Another forward adapter.
    pub forward_adapter: Option<String>,
    /// Another reverse adapter.
    pub reverse_adapter: Option<String>,
    /// Another forward path.
    pub forward_path: Option<Steps>,
    /// Another reverse path.
    pub reverse_path: Option<Steps>,
    /// Alpha where the adapter file states none.
    pub adapter_alpha: Option<f64>,
    /// Adapters of a style, stacked on the way back, and their shares.
    pub styles: Vec<(String, f64)>,
    /// A single file whose UNet, autoencoder and text encoders take the place
    /// of the model's.
    pub checkpoint: Option<String>,
    /// Whether the autoencoder computes in strips.
    pub tiling: Tiling,
}

impl ModelChoice {
    /// A model of this name, or in this folder, as it is.
    pub fn named(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            ..Self::default()
        }
    }
}

/// The parts of a model, found but not read.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The folder of text encoders, tokenizers, autoencoder and scheduler.
    pub(super) home: Home,
    pub(super) family: Family,
    pub(super) unet: Reference,
    pub(super) forward: Walker,
    pub(super) reverse: Walker,
    pub(super) adapter_alpha: f64,
    /// The guidance of edits and new pictures where none is asked for.
    pub(super) guidance: Option<f64>,
    /// Where the guidance of edits ends where nothing is asked for.
    pub(super) tau: Option<Tau>,
    /// Adapters of a style, and their shares.
    pub(super) styles: Vec<(Reference, f64)>,
    /// A file that holds UNet, autoencoder and text encoders.
    single: Option<Reference>,
    /// Whether a person named the UNet, which then goes before that file's.
    unet_is_named: bool,
}

/// An adapter's file and its share.
pub(super) type Style = (Source, f64);

/// The networks' files in their folders, safetensors first.
pub(crate) const NETWORK_FILES: [&str; 4] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
];
const ENCODER_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "pytorch_model.bin",
];
/// The adapters' files in a folder.
pub(crate) const ADAPTER_FILES: [&str; 2] = [
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
];

/// What one direction of the walk needs beside the UNet.
#[derive(Clone, Debug, Default)]
pub(super) struct Walker {
    pub(super) adapter: Option<Reference>,
    steps: Option<Steps>,
}

impl Walker {
    /// The adapter's file.
    pub(super) fn adapter_file(&self) -> Result<Option<Source>> {
        let adapter = self.adapter.as_ref();
        adapter
            .map(|adapter| adapter.file(&ADAPTER_FILES))
            .transpose()
    }

    /// The steps as said, else as the adapter's file `states` them.
    pub(super) fn steps(
        &self,
        states: fn(&Source) -> Result<Option<Steps>>,
    ) -> Result<Option<Steps>> {
        match (&self.steps, self.adapter_file()?) {
            (Some(steps), _) => Ok(Some(steps.clone())),
            (None, Some(file)) => states(&file),
            (None, None) => Ok(None),
        }
    }

    /// Another adapter brings its own path; another path keeps the adapter.
    fn overridden(self, adapter: Option<&String>, steps: Option<&Steps>) -> Result<Self> {
        let walker = match adapter {
            Some(text) => Self {
                adapter: Some(Reference::parse(text, FilePath::new(""))?),
                steps: None,
            },
            None => self,
        };
        Ok(Self {
            steps: steps.cloned().or(walker.steps),
            ..walker
        })
    }
}

impl Parts {
    /// Finds the parts that a choice means.
    pub fn find(choice: &ModelChoice) -> Result<Self> {
        let parts = match (Preset::named(&choice.model), choice.variant) {
            (Some(preset), variant) => Self::preset(preset, variant),
            (None, Some(_)) => {
                return Err(Error::setting(format!(
                    "--variant belongs to the presets sd15 and sdxl, not to {}",
                    choice.model
                )));
            }
            (None, None) => Self::folder(home(&choice.model)?)?,
        };
        parts.overridden(choice)
    }

    fn preset(preset: &Preset, variant: Option<Variant>) -> Self {
        let [forward, reverse] = preset.adapters(variant).map(|adapter| Walker {
            adapter: Some(adapter),
            steps: None,
        });
        Self {
            home: Home::hub(Repository::new(preset.base)),
            family: preset.family,
            unet: Reference::Folder(Home::hub(Repository::new(preset.unet))),
            forward,
            reverse,
            adapter_alpha: RELEASED_ALPHA,
            guidance: None,
            tau: None,
            styles: Vec::new(),
            single: None,
            unet_is_named: false,
        }
    }

    fn folder(home: Home) -> Result<Self> {
        if !is_model_folder(&home) {
            let reason = "it is neither a preset (sd15, sdxl, shapes) nor a model folder in the \
                          diffusers layout";
            return Err(Error::config(home.path(), reason));
        }
        let recipe = Recipe::read(&home)?;
        let reference = |text: &String| home.reference(text);
        let walker = |adapter: &Option<String>, path: &Option<Vec<u16>>| -> Result<Walker> {
            let adapter = adapter.as_ref().map(reference).transpose()?;
            Ok(Walker {
                adapter,
                steps: path.clone().map(Steps),
            })
        };
        Ok(Self {
            family: family_of(&home)?,
            unet: match &recipe.unet {
                Some(text) => reference(text)?,
                None => Reference::Folder(home.within("unet")),
            },
            forward: walker(&recipe.forward_adapter, &recipe.forward_path)?,
            reverse: walker(&recipe.reverse_adapter, &recipe.reverse_path)?,
            adapter_alpha: recipe.adapter_alpha.unwrap_or(RELEASED_ALPHA),
            guidance: recipe.guidance,
            tau: recipe.tau.map(Tau::step).transpose()?,
            styles: Vec::new(),
            single: None,
            unet_is_named: false,
            home,
        })
    }

    fn overridden(self, choice: &ModelChoice) -> Result<Self> {
        let file = |text: &String| Reference::parse(text, FilePath::new(""));
        let single = choice.checkpoint.as_ref().map(file).transpose()?;
        if let Some(alpha) = choice.adapter_alpha.filter(|alpha| !alpha.is_finite()) {
            let reason = format!("--adapter-alpha {alpha}: write a number");
            return Err(Error::setting(reason));
        }
        Ok(Self {
            unet: choice
                .unet
                .as_ref()
                .map(file)
                .transpose()?
                .unwrap_or(self.unet),
            unet_is_named: choice.unet.is_some(),
            single,
            forward: self.forward.overridden(
                choice.forward_adapter.as_ref(),
                choice.forward_path.as_ref(),
            )?,
            reverse: self.reverse.overridden(
                choice.reverse_adapter.as_ref(),
                choice.reverse_path.as_ref(),
            )?,
            adapter_alpha: choice.adapter_alpha.unwrap_or(self.adapter_alpha),
            styles: (choice.styles.iter())
                .map(|(text, share)| Ok((file(text)?, *share)))
                .collect::<Result<_>>()?,
            ..self
        })
    }

    /// The file of a network's weights.
    pub(super) fn file(&self, part: Part) -> Result<Source> {
        let (place, names) = self.place(part);
        place.file(names)
    }

    /// Where a network's weights are, and the names they may have in a folder.
    pub(super) fn place(&self, part: Part) -> (Reference, &'static [&'static str]) {
        let in_home = |folder| Reference::Folder(self.home.within(folder));
        match (&self.single, part) {
            (Some(single), part) if part != Part::Unet || !self.unet_is_named => {
                (single.clone(), &[])
            }
            (_, Part::Unet) => (self.unet.clone(), &NETWORK_FILES),
            (_, Part::Vae) => (in_home("vae"), &NETWORK_FILES),
            (_, Part::Text(index)) => {
                let (_, folder, _) = &self.family.text_encoders()[index];
                (in_home(folder), &ENCODER_FILES)
            }
        }
    }

    /// A network's weights.
    pub(super) fn open(&self, part: Part) -> Result<Checkpoint> {
        single::open(self.file(part)?, part)
    }

    /// All networks.
    pub(super) fn all(&self) -> Vec<Part> {
        let encoders = self.family.text_encoders().len();
        let texts = (0..encoders).map(Part::Text);
        [Part::Unet, Part::Vae].into_iter().chain(texts).collect()
    }

    /// The files of the styles, and their shares.
    pub(super) fn styles(&self) -> Result<Vec<Style>> {
        let styles = self.styles.iter();
        styles
            .map(|(style, share)| Ok((style.file(&ADAPTER_FILES)?, *share)))
            .collect()
    }

    /// The UNet's measures: those of its configuration, else the family's.
    pub(super) fn unet_config(&self) -> Result<UnetConfig> {
        match self.unet_config_file()? {
            Some(file) => diffusers::unet_config(&file),
            None => Ok(self.family.unet_config()),
        }
    }

    /// The config.json beside the UNet, else the model's own.
    pub(super) fn unet_config_file(&self) -> Result<Option<Source>> {
        let beside = match &self.unet {
            Reference::Folder(home @ Home::Hub(..)) => Some(home.file("config.json")?),
            other => other.home().file("config.json").ok(),
        };
        Ok(beside.or_else(|| self.home.file("unet/config.json").ok()))
    }
}

/// The folder that a model's name means which is no preset.
pub(super) fn home(model: &str) -> Result<Home> {
    match model {
        shapes::NAME => Ok(shapes::home()),
        _ if model.starts_with("hub:") => match Reference::parse(model, FilePath::new(""))? {
            Reference::Folder(home) => Ok(home),
            Reference::File(..) => Err(Error::setting(format!(
                "{model} names a file; a model is all of a repository, hub:owner/name"
            ))),
        },
        folder => Ok(Home::Folder(folder.into())),
    }
}

/// The family that a model folder's index names, or that its folders show.
fn family_of(home: &Home) -> Result<Family> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class: String,
    }
    if home.has("model_index.json") {
        let file = home.file("model_index.json")?;
        let index: Index = diffusers::read_json(&file)?;
        return Family::of_pipeline(&index.class).map_err(|error| Error::config(&file, error));
    }
    Ok(match home.has("text_encoder_2") {
        true => Family::Sdxl,
        false => Family::Sd15,
    })
}
