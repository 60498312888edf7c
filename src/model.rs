//! Networks, and the model that holds them: where its parts are, and how they
//! are read when they are needed.

pub mod attention;
pub mod clip;
pub mod diffusers;
pub mod embedding;
mod family;
mod fingerprint;
mod needs;
mod parts;
mod presets;
mod recipe;
mod shapes;
mod single;
pub mod stage;
mod text;
pub mod unet;
pub mod vae;

use candle_core::Device;

pub use family::{Draw, Family};
pub use needs::needs;
pub(crate) use parts::{ADAPTER_FILES, NETWORK_FILES};
pub use parts::{ModelChoice, Parts};
pub use presets::{PRESETS, Variant};
pub use text::{Conditioning, Text, TextReader, Tokenizers};

use self::{
    fingerprint::fingerprint,
    parts::{Style, Walker},
    single::Part,
    text::style_changes,
    unet::{Unet, UnetConfig},
    vae::{Tiling, Vae, VaeConfig},
};
use crate::{
    error::{Error, Result},
    guidance::Tau,
    hub::Home,
    lora::{self, Adapter, Network, Reading},
    nn::{Checkpoint, Storage, Weights, stacked},
    schedule::{Path, Schedule},
    source::Source,
};

/// A diffusion model with its two consistency adapters. Nothing is in memory
/// until it is asked for, and what was asked for is the caller's to drop.
#[derive(Debug)]
pub struct Model {
    parts: Parts,
    schedule: Schedule,
    unet_file: Source,
    unet_config: UnetConfig,
    tiling: Tiling,
    storage: Storage,
}

/// The guidance of new pictures that suits the released models.
const GENERATION_GUIDANCE: f64 = 7.0;

impl Model {
    /// Finds the parts of a model and reads their configurations.
    pub fn open(choice: &ModelChoice, storage: Storage) -> Result<Self> {
        let parts = Parts::find(choice)?;
        let schedule = match parts.home.first("scheduler", &["scheduler_config.json"]) {
            Ok(file) => diffusers::schedule(&file)?,
            Err(_) => Schedule::default(),
        };
        let unet_file = parts.file(Part::Unet)?;
        let unet_config = parts.unet_config()?;
        Ok(Self {
            parts,
            schedule,
            unet_file,
            unet_config,
            tiling: choice.tiling,
            storage,
        })
    }

    /// Stable Diffusion 1.5 or SDXL.
    pub fn family(&self) -> Family {
        self.parts.family
    }

    /// The guidance of edits where none is asked for: the model's own word, else
    /// what suits its family.
    pub fn edit_guidance(&self) -> f64 {
        self.parts.guidance.unwrap_or(self.family().edit_guidance())
    }

    /// Where the guidance of edits ends where nothing is asked for: the model's
    /// own word, else what suits its reverse path.
    pub fn edit_tau(&self) -> Result<Tau> {
        match self.parts.tau {
            Some(tau) => Ok(tau),
            None => Ok(Tau::usual_for(&self.reverse_path()?)),
        }
    }

    /// The guidance of new pictures where none is asked for.
    pub fn generation_guidance(&self) -> f64 {
        self.parts.guidance.unwrap_or(GENERATION_GUIDANCE)
    }

    /// The noise schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The measures of the UNet.
    pub fn unet_config(&self) -> &UnetConfig {
        &self.unet_config
    }

    /// Pixels along one side of a latent's value.
    pub fn latent_factor(&self) -> Result<usize> {
        Ok(self.vae_config()?.factor())
    }

    fn vae_config(&self) -> Result<VaeConfig> {
        diffusers::vae_config(&self.parts.home.file("vae/config.json")?)
    }

    /// Where the networks run.
    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// A short name that tells one UNet from another by its content.
    pub fn identity(&self) -> Result<String> {
        Ok(format!(
            "{} {}",
            self.family(),
            fingerprint(&self.unet_file)?
        ))
    }

    /// A short name of all weights that an inversion depends on, by content.
    pub fn inverting_identity(&self) -> Result<String> {
        let parts = &self.parts;
        let files = parts.all().into_iter().map(|part| parts.file(part));
        let mut files: Vec<_> = files.collect::<Result<_>>()?;
        files.extend(parts.forward.adapter_file()?);
        let prints = files.iter().map(fingerprint);
        let prints: Vec<_> = prints.collect::<Result<_>>()?;
        let alpha = parts.adapter_alpha;
        Ok(format!("{} {} {alpha}", self.family(), prints.join(" ")))
    }

    /// How many values the networks have, by their names: what they take in
    /// memory, times the bytes of a value.
    pub fn measures(&self) -> Result<Vec<(String, usize)>> {
        let parts = self.parts.all().into_iter();
        parts
            .map(|part| Ok((part.to_string(), self.parts.open(part)?.values())))
            .collect()
    }

    /// The tokenizers, which need no weights.
    pub fn tokenizers(&self) -> Result<Tokenizers> {
        Tokenizers::open(&self.parts.home, self.family())
    }

    /// The text encoders with their tokenizers, without styles.
    pub fn text(&self) -> Result<TextReader> {
        TextReader::open(&self.parts, &self.storage, &[])
    }

    /// The text encoders for the way back, styles stacked on them.
    pub fn styled_text(&self) -> Result<TextReader> {
        let styles = self.parts.styles()?;
        TextReader::open(&self.parts, &self.storage, &styles)
    }

    /// The autoencoder; it is small, and SDXL's overflows in half precision,
    /// so it is always kept in f32.
    pub fn vae(&self) -> Result<Vae> {
        let checkpoint = self.parts.open(Part::Vae)?;
        let config = self.vae_config()?;
        let vae = Vae::new(&Weights::new(&checkpoint, &self.storage.exact()), config)?;
        Ok(vae.with_tiling(self.tiling))
    }

    /// The path of the forward adapter.
    pub fn forward_path(&self) -> Result<Path> {
        let steps = self.parts.forward.steps(lora::forward_steps)?;
        Path::forward(
            &steps
                .ok_or_else(|| unknown_path("forward", "19,259,519,779,999"))?
                .0,
        )
    }

    /// The path of the reverse adapter.
    pub fn reverse_path(&self) -> Result<Path> {
        let steps = self.parts.reverse.steps(lora::reverse_steps)?;
        Path::reverse(
            &steps
                .ok_or_else(|| unknown_path("reverse", "999,779,519,259,0"))?
                .0,
        )
    }

    /// The UNet with the forward adapter merged in.
    pub fn forward_unet(&self) -> Result<Unet> {
        self.unet(&self.parts.forward, &[])
    }

    /// The UNet with the reverse adapter merged in, and styles on top of it.
    pub fn reverse_unet(&self) -> Result<Unet> {
        self.unet(&self.parts.reverse, &self.parts.styles()?)
    }

    /// The UNet without an adapter.
    pub fn plain_unet(&self) -> Result<Unet> {
        self.unet(&Walker::default(), &[])
    }

    /// The file of the UNet's weights, opened.
    pub fn unet_checkpoint(&self) -> Result<Checkpoint> {
        self.parts.open(Part::Unet)
    }

    /// The UNet's config.json.
    pub fn unet_settings(&self) -> Result<serde_json::Value> {
        match self.parts.unet_config_file()? {
            Some(file) => diffusers::read_json(&file),
            None => Err(Error::config(
                &self.unet_file,
                "it has no config.json beside it",
            )),
        }
    }

    /// How the networks are kept.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    fn unet(&self, walker: &Walker, styles: &[Style]) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        let weights = Weights::new(&checkpoint, &self.storage);
        let mut layers = vec![(style_changes(styles, Network::Unet, &checkpoint)?, 1.0)];
        if let Some(file) = walker.adapter_file()? {
            let reading = Reading {
                alpha: Some(self.parts.adapter_alpha),
                rounding: self.family().adapter_rounding(),
            };
            let adapter = Adapter::read(file, &checkpoint, reading)?;
            layers.push((adapter.changes().clone(), 1.0));
        }
        let changes = stacked(&layers)?;
        Unet::new(&weights.merged_with(&changes), self.unet_config.clone())
    }
}

fn unknown_path(direction: &str, example: &str) -> Error {
    Error::setting(format!(
        "neither the {direction} adapter's metadata nor its file name tells its path: \
         say it, as in --{direction}-path {example}"
    ))
}

/// Whether `home` holds a model in the diffusers layout.
pub(crate) fn is_model_folder(home: &Home) -> bool {
    home.has("model_index.json") || home.has("unet") || home.has("vae")
}
