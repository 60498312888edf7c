//! Networks, and the model that holds them: where its parts are, and how they
//! are read when they are needed.

pub mod attention;
pub mod clip;
pub mod diffusers;
pub mod embedding;
mod family;
mod parts;
mod shapes;
pub mod stage;
mod text;
pub mod unet;
pub mod vae;

use candle_core::{DType, Device};

pub use family::{Draw, Family};
pub use parts::{ModelChoice, PRESETS, Parts, Variant};
pub use text::{Conditioning, Text, TextReader, Tokenizers};

use self::{
    parts::Walker,
    unet::{Unet, UnetConfig},
    vae::{Vae, VaeConfig},
};
use crate::{
    error::{Error, Result},
    hub::Home,
    lora::{self, Adapter, Reading},
    nn::{Checkpoint, Storage, Weights},
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
    storage: Storage,
}

/// The guidance of new pictures that suits the released models.
const GENERATION_GUIDANCE: f64 = 7.0;

/// The networks' files, safetensors first.
const NETWORK_FILES: [&str; 4] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
];

impl Model {
    /// Finds the parts of a model and reads their configurations.
    pub fn open(choice: &ModelChoice, storage: Storage) -> Result<Self> {
        let parts = Parts::find(choice)?;
        let schedule = match parts.home.first("scheduler", &["scheduler_config.json"]) {
            Ok(file) => diffusers::schedule(&file)?,
            Err(_) => Schedule::default(),
        };
        let unet_file = parts.unet.file(&NETWORK_FILES)?;
        let unet_config = parts.unet_config()?;
        Ok(Self {
            parts,
            schedule,
            unet_file,
            unet_config,
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
            parts::fingerprint(&self.unet_file)?
        ))
    }

    /// A short name of all weights that an inversion depends on, by content.
    pub fn inverting_identity(&self) -> Result<String> {
        let mut files = vec![
            self.unet_file.clone(),
            self.parts.home.first("vae", &NETWORK_FILES)?,
        ];
        files.extend(self.parts.forward.adapter_file()?);
        files.extend(TextReader::files(&self.parts.home, self.family())?);
        let prints = files.iter().map(parts::fingerprint);
        let prints: Vec<_> = prints.collect::<Result<_>>()?;
        let alpha = self.parts.adapter_alpha;
        Ok(format!("{} {} {alpha}", self.family(), prints.join(" ")))
    }

    /// How many values the networks have, by their names: what they take in
    /// memory, times the bytes of a value.
    pub fn measures(&self) -> Result<Vec<(&'static str, usize)>> {
        let count = |files: &[Source]| {
            let counts = files
                .iter()
                .map(|file| Ok(Checkpoint::open(file)?.values()));
            counts.sum::<Result<usize>>()
        };
        let home = &self.parts.home;
        Ok(vec![
            ("UNet", count(std::slice::from_ref(&self.unet_file))?),
            (
                "text encoders",
                count(&TextReader::files(home, self.family())?)?,
            ),
            ("autoencoder", count(&[home.first("vae", &NETWORK_FILES)?])?),
        ])
    }

    /// The tokenizers, which need no weights.
    pub fn tokenizers(&self) -> Result<Tokenizers> {
        Tokenizers::open(&self.parts.home, self.family())
    }

    /// The text encoders with their tokenizers.
    pub fn text(&self) -> Result<TextReader> {
        TextReader::open(&self.parts.home, self.family(), &self.storage)
    }

    /// The autoencoder; it is small, and SDXL's overflows in half precision,
    /// so it is always kept in f32.
    pub fn vae(&self) -> Result<Vae> {
        let home = &self.parts.home;
        let checkpoint = Checkpoint::open(home.first("vae", &NETWORK_FILES)?)?;
        let config = self.vae_config()?;
        let storage = Storage {
            dtype: DType::F32,
            ..self.storage.clone()
        };
        Vae::new(&Weights::new(&checkpoint, &storage), config)
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
        self.unet(&self.parts.forward)
    }

    /// The UNet with the reverse adapter merged in.
    pub fn reverse_unet(&self) -> Result<Unet> {
        self.unet(&self.parts.reverse)
    }

    /// The UNet without an adapter.
    pub fn plain_unet(&self) -> Result<Unet> {
        self.unet(&Walker::default())
    }

    /// The file of the UNet's weights, opened.
    pub fn unet_checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::open(&self.unet_file)
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

    fn unet(&self, walker: &Walker) -> Result<Unet> {
        let checkpoint = Checkpoint::open(&self.unet_file)?;
        let weights = Weights::new(&checkpoint, &self.storage);
        let Some(file) = walker.adapter_file()? else {
            return Unet::new(&weights, self.unet_config.clone());
        };
        let reading = Reading {
            alpha: self.parts.adapter_alpha,
            rounding: self.family().adapter_rounding(),
        };
        let adapter = Adapter::read(file, &checkpoint, reading)?;
        Unet::new(
            &weights.merged_with(adapter.changes()),
            self.unet_config.clone(),
        )
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
