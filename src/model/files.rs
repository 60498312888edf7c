//! Locates the parts of a model: presets, model folders with their `icd.toml`, and
//! the overrides of both.

use std::path::Path;

use serde::Deserialize;

use super::{
    DefaultBlend, Family, MethodName, TrainedOn, bundled, config, is_model_folder,
    manifest::Manifest,
    presets::{Preset, Variant},
    vae::Tiling,
};
use crate::{
    error::{Error, Result, Setting},
    guidance::Tau,
    hub::{Cache, FileTree, Location, Repository},
    io::{Digests, Source},
    lora::{Direction, RELEASED_ALPHA, WeightedLora, finite_alpha},
    schedule::{DdimSteps, Timesteps},
};

/// The user's choice of a model and its overrides. Paths are as given, or
/// `hub:owner/name[/file]`.
#[derive(Clone, Debug, Default)]
pub struct ModelChoice {
    /// `sd15`, `sdxl`, `tabletop`, or a folder in the diffusers layout, local or
    /// `hub:owner/name`.
    pub model: String,
    /// The adapter pair of a preset.
    pub variant: Option<Variant>,
    /// Overrides the UNet.
    pub unet: Option<String>,
    /// Overrides the forward adapter.
    pub forward_adapter: Option<String>,
    /// Overrides the reverse adapter.
    pub reverse_adapter: Option<String>,
    /// Overrides the forward timesteps.
    pub forward_timesteps: Option<Timesteps>,
    /// Overrides the reverse timesteps.
    pub reverse_timesteps: Option<Timesteps>,
    /// LoRA alpha of adapter files that state none, those of style LoRAs included.
    pub adapter_alpha: Option<f64>,
    /// Style LoRAs for edits and generations.
    pub loras: Vec<WeightedLora>,
    /// A single-file checkpoint that replaces the model's UNet, autoencoder and text
    /// encoders.
    pub checkpoint: Option<String>,
    /// Whether the autoencoder computes in strips.
    pub tiling: Tiling,
    /// The cache of Hugging Face Hub files; by default from the environment.
    pub cache: Option<Cache>,
    /// Where the hashes of large local files are remembered.
    pub digests: Digests,
}

impl ModelChoice {
    /// A model by name or folder, without overrides.
    pub fn named(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            ..Self::default()
        }
    }

    /// The cache of Hugging Face Hub files.
    pub(super) fn cache(&self) -> Cache {
        self.cache.clone().unwrap_or_else(Cache::from_env)
    }
}

/// The located parts of a model, not loaded yet.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The folder of text encoders, tokenizers, autoencoder and scheduler.
    pub(super) home: FileTree,
    pub(super) family: Family,
    pub(super) unet: Location,
    pub(super) forward: DirectionAdapter,
    pub(super) reverse: DirectionAdapter,
    /// Alpha of the two adapters, if their files state none.
    pub(super) adapter_alpha: Option<f64>,
    /// Alpha of the style LoRAs, if their files state none.
    pub(super) lora_alpha: Option<f64>,
    /// The default guidance of edits and generations.
    pub(super) guidance: Option<f64>,
    /// The default tau of edits.
    pub(super) tau: Option<Tau>,
    /// The default local blend of edits.
    pub(super) blend: DefaultBlend,
    /// The default method, and its steps.
    pub(super) method: (MethodName, DdimSteps),
    pub(super) trained_on: TrainedOn,
    pub(super) loras: Vec<WeightedLora<Location>>,
    /// A single-file checkpoint with UNet, autoencoder and text encoders.
    pub(super) single: Option<Location>,
    /// Whether the user named the UNet, which then takes precedence over that file's.
    pub(super) unet_is_named: bool,
}

/// The adapters' file names in a folder.
pub(crate) const ADAPTER_FILES: [&str; 4] = [
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
];

/// The adapter and timesteps of one direction.
#[derive(Clone, Debug)]
pub(super) struct DirectionAdapter {
    direction: Direction,
    pub(super) adapter: Option<Location>,
    timesteps: Option<Timesteps>,
}

impl DirectionAdapter {
    /// Whether nothing is known of it.
    pub(super) fn is_empty(&self) -> bool {
        self.adapter.is_none() && self.timesteps.is_none()
    }

    /// The adapter's file, which must not state the other direction.
    pub(super) fn adapter_file(&self) -> Result<Option<Source>> {
        let Some(adapter) = &self.adapter else {
            return Ok(None);
        };
        let file = adapter.file(&ADAPTER_FILES)?;
        self.direction.check(&file)?;
        Ok(Some(file))
    }

    /// The timesteps as configured, else those that `stated` reads from the adapter's
    /// file; those of the reverse direction end at 0 either way.
    pub(super) fn timesteps(
        &self,
        stated: fn(&Source) -> Result<Option<Timesteps>>,
    ) -> Result<Option<Timesteps>> {
        match (&self.timesteps, self.adapter_file()?) {
            (Some(timesteps), _) => self.direction.ended(timesteps).map(Some),
            (None, Some(file)) => stated(&file),
            (None, None) => Ok(None),
        }
    }

    /// An overriding adapter drops the old timesteps; overriding timesteps keep the adapter.
    fn overridden(
        self,
        adapter: Option<&String>,
        timesteps: Option<&Timesteps>,
        cache: &Cache,
    ) -> Result<Self> {
        let direction = match adapter {
            Some(text) => Self {
                adapter: Some(Location::parse(text, Path::new(""), cache)?),
                timesteps: None,
                ..self
            },
            None => self,
        };
        Ok(Self {
            timesteps: timesteps.cloned().or(direction.timesteps),
            ..direction
        })
    }
}

impl ModelFiles {
    /// Locates the parts of the chosen model.
    pub fn find(choice: &ModelChoice) -> Result<Self> {
        let cache = &choice.cache();
        let parts = match (Preset::named(&choice.model), choice.variant) {
            (Some(preset), variant) => Self::preset(preset, variant, cache),
            (None, Some(_)) => {
                let reason = "only the presets sd15 and sdxl have variants";
                return Err(Error::of(Setting::Variant, reason));
            }
            (None, None) => Self::folder(home(&choice.model, cache)?, cache)?,
        };
        parts.overridden(choice, cache)
    }

    fn preset(preset: &Preset, variant: Option<Variant>, cache: &Cache) -> Self {
        let [forward, reverse] = preset.adapters(variant, cache);
        let of = |direction, adapter| DirectionAdapter {
            direction,
            adapter: Some(adapter),
            timesteps: None,
        };
        Self {
            home: FileTree::hub(cache, Repository::new(preset.base)),
            family: preset.family,
            unet: Location::Folder(FileTree::hub(cache, Repository::new(preset.unet))),
            forward: of(Direction::Forward, forward),
            reverse: of(Direction::Reverse, reverse),
            adapter_alpha: Some(RELEASED_ALPHA),
            lora_alpha: None,
            guidance: None,
            tau: None,
            blend: DefaultBlend::None,
            method: Default::default(),
            trained_on: TrainedOn::default(),
            loras: Vec::new(),
            single: None,
            unet_is_named: false,
        }
    }

    fn folder(home: FileTree, cache: &Cache) -> Result<Self> {
        if !is_model_folder(&home) {
            let reason = "it is neither a preset (sd15, sdxl, tabletop), a repository of the hub \
                          (hub:owner/name), nor a model folder in the diffusers layout";
            return Err(Error::config(home.path(), reason));
        }
        let manifest = Manifest::read(&home)?;
        let reference = |text: &String| home.reference(text, cache);
        let of = |direction, adapter: &Option<String>, timesteps: &Option<Timesteps>| {
            Ok::<_, Error>(DirectionAdapter {
                direction,
                adapter: adapter.as_ref().map(reference).transpose()?,
                timesteps: timesteps.clone(),
            })
        };
        Ok(Self {
            family: family_of(&home)?,
            unet: match &manifest.unet {
                Some(text) => reference(text)?,
                None => Location::Folder(home.within("unet")),
            },
            forward: of(
                Direction::Forward,
                &manifest.forward_adapter,
                &manifest.forward_timesteps,
            )?,
            reverse: of(
                Direction::Reverse,
                &manifest.reverse_adapter,
                &manifest.reverse_timesteps,
            )?,
            adapter_alpha: manifest.adapter_alpha,
            lora_alpha: None,
            guidance: manifest.guidance,
            tau: manifest.tau,
            blend: manifest.blend,
            method: (manifest.method, manifest.steps),
            trained_on: manifest.trained_on,
            loras: Vec::new(),
            single: None,
            unet_is_named: false,
            home,
        })
    }

    fn overridden(self, choice: &ModelChoice, cache: &Cache) -> Result<Self> {
        let file = |text: &String| Location::parse(text, Path::new(""), cache);
        let single = choice.checkpoint.as_ref().map(file).transpose()?;
        let alpha = choice.adapter_alpha.map(finite_alpha).transpose()?;
        Ok(Self {
            unet: choice
                .unet
                .as_ref()
                .map(file)
                .transpose()?
                .unwrap_or(self.unet),
            trained_on: match choice.unet.is_some() || choice.checkpoint.is_some() {
                true => TrainedOn::default(), // by others
                false => self.trained_on,
            },
            unet_is_named: choice.unet.is_some(),
            single,
            forward: self.forward.overridden(
                choice.forward_adapter.as_ref(),
                choice.forward_timesteps.as_ref(),
                cache,
            )?,
            reverse: self.reverse.overridden(
                choice.reverse_adapter.as_ref(),
                choice.reverse_timesteps.as_ref(),
                cache,
            )?,
            adapter_alpha: alpha.or(self.adapter_alpha),
            lora_alpha: alpha,
            loras: (choice.loras.iter())
                .map(|lora| {
                    Ok(WeightedLora {
                        file: file(&lora.file)?,
                        weight: lora.weight,
                    })
                })
                .collect::<Result<_>>()?,
            ..self
        })
    }
}

/// The folder of a model that is not a preset.
pub(super) fn home(model: &str, cache: &Cache) -> Result<FileTree> {
    match model {
        name if bundled::is_bundled(name) => Ok(bundled::home()),
        _ if Location::on_hub(model).is_some() => {
            match Location::parse(model, Path::new(""), cache)? {
                Location::Folder(home) => Ok(home),
                Location::File(..) => Err(Error::setting(format!(
                    "{model} names a file; a model is all of a repository, hub:owner/name"
                ))),
            }
        }
        folder => Ok(FileTree::Folder(folder.into())),
    }
}

/// The family according to a model folder's index, else its subfolders.
fn family_of(home: &FileTree) -> Result<Family> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class: String,
        /// Of the refiner of SDXL alone.
        #[serde(default)]
        requires_aesthetics_score: bool,
    }
    if home.has("model_index.json") {
        let file = home.file("model_index.json")?;
        let index: Index = config::read_json(&file)?;
        if index.requires_aesthetics_score {
            let reason = "it is the refiner of Stable Diffusion XL, which is not supported";
            return Err(Error::config(&file, reason));
        }
        return Family::of_pipeline(&index.class).map_err(|error| Error::config(&file, error));
    }
    Ok(match home.has("text_encoder_2") {
        true => Family::Sdxl,
        false => Family::Sd15,
    })
}
