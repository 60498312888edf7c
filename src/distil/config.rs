//! The file that describes a distillation, in TOML. Every key has a comment in
//! `icd distill --help`.

use std::{
    fs,
    path::{Path as File, PathBuf},
};

use candle_core::DType;
use serde::Deserialize;

use super::{
    AdamWConfig, Lessons, Preservation, Rate,
    consistency::{FIRST, LAST, STRIDE},
};
use crate::{
    error::{Error, Result},
    lora::Rank,
    model::{ModelChoice, PRESETS},
    schedule::Path,
};

/// How numbers are kept; on a GPU this is also how they are computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 11 of them for the digits.
    F16,
    /// 16 bits with the range of 32.
    Bf16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Bf16 => Self::BF16,
        }
    }
}

/// A distillation as its file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilConfig {
    /// The teacher: a preset's name, or a folder in the diffusers layout.
    pub model: String,
    /// Another UNet for it, such as the one that the distillation of guidance
    /// wrote: a file or folder, or `hub:owner/name[/file]`.
    pub unet: Option<String>,
    /// The folder of captioned pictures.
    pub data: PathBuf,
    /// The folder of everything that is written.
    pub out: PathBuf,
    /// Side of the pictures in pixels; the model's own where none is said.
    pub size: Option<usize>,
    /// Steps in all.
    pub steps: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Parts that the rows are learnt in, whose gradients are added up: more
    /// parts take less memory. 1 where it is not said.
    #[serde(default = "one")]
    pub parts: usize,
    /// Parts that are learnt at the same time, each on its share of the CPU's
    /// threads: faster for networks too small to keep many threads busy.
    #[serde(default = "one")]
    pub at_once: usize,
    /// Whether what the networks' blocks compute is forgotten and computed again
    /// on the way back: much less memory, for a third more time.
    #[serde(default)]
    pub recompute: bool,
    /// How weights that are not trained are kept.
    #[serde(default)]
    pub dtype: Precision,
    /// The highest learning rate.
    #[serde(default = "rate")]
    pub rate: f64,
    /// Steps in which it is reached.
    #[serde(default)]
    pub warmup: usize,
    /// Whether it falls to zero towards the last step.
    #[serde(default)]
    pub fall: bool,
    /// The guidance strengths that are learnt.
    #[serde(default = "guidance")]
    pub guidance: Vec<f64>,
    /// How slowly the running mean of the weights follows them; it is what is
    /// written in the end. None where it is not said.
    pub average: Option<f64>,
    /// Steps between two saved states.
    #[serde(default = "save_every")]
    pub save_every: usize,
    /// Steps between two sheets of sample pictures; 0 for none.
    #[serde(default)]
    pub sample_every: usize,
    /// All that is random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Rank of the adapters.
    #[serde(default = "rank")]
    pub rank: usize,
    /// Their alpha.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// The path of the forward adapter.
    #[serde(default = "forward_path")]
    pub forward_path: Vec<u16>,
    /// The path of the reverse adapter.
    #[serde(default = "reverse_path")]
    pub reverse_path: Vec<u16>,
    /// What forward preservation weighs; 0 leaves it out.
    #[serde(default = "preservation")]
    pub forward_preservation: f64,
    /// What reverse preservation weighs; 0 leaves it out.
    #[serde(default = "preservation")]
    pub reverse_preservation: f64,
}

impl DistilConfig {
    /// Reads a file; the folders in it start at the file's own.
    pub fn read(file: &File) -> Result<Self> {
        let text = fs::read_to_string(file).map_err(|error| Error::io(file, error))?;
        let config: Self = toml::from_str(&text).map_err(|error| Error::config(file, error))?;
        let base = file.parent().unwrap_or(File::new(""));
        config
            .check()
            .map_err(|reason| Error::config(file, reason))?;
        let here = |name: &String| {
            let path = base.join(name);
            match path.exists() && !PRESETS.contains(&name.as_str()) {
                true => path.display().to_string(),
                false => name.clone(),
            }
        };
        Ok(Self {
            data: base.join(&config.data),
            out: base.join(&config.out),
            model: here(&config.model),
            unet: config.unet.as_ref().map(here),
            ..config
        })
    }

    /// The teacher.
    pub fn choice(&self) -> ModelChoice {
        ModelChoice {
            model: self.model.clone(),
            unet: self.unet.clone(),
            ..ModelChoice::default()
        }
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
            ("steps", self.steps > 0),
            ("batch", self.batch > 0),
            ("at_once", self.at_once > 0),
            ("rate", self.rate > 0.0),
            ("rank", self.rank > 0),
            ("alpha", self.alpha > 0.0),
            ("size", self.size != Some(0)),
            ("save_every", self.save_every > 0),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, fine)| !fine) {
            return Err(format!("{name} must be greater than 0"));
        }
        if self.guidance.is_empty() || self.guidance.iter().any(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err("guidance must be strengths of 0 or more, as in [0, 7, 19]".into());
        }
        if self.average.is_some_and(|beta| !(0.0..1.0).contains(&beta)) {
            return Err("average must be from 0 to below 1, as in 0.999".into());
        }
        if !(1..=self.batch).contains(&self.parts) {
            return Err(format!(
                "parts must be from 1 to the batch of {}",
                self.batch
            ));
        }
        self.check_paths()?;
        let weights = [self.forward_preservation, self.reverse_preservation];
        match weights.iter().all(|weight| *weight >= 0.0) {
            true => Ok(()),
            false => Err("the weights of preservation must be 0 or more".into()),
        }
    }

    /// The paths meet the ends of the diffusion, and else only timesteps at
    /// which the teacher makes a step.
    fn check_paths(&self) -> Result<(), String> {
        let [forward, reverse] = self.paths().map_err(|error| error.to_string())?;
        let ends = [forward.end(), reverse.start(), reverse.end()].map(|t| t.0);
        if ends != [LAST, LAST, 0] {
            return Err(format!(
                "forward_path must end at {LAST}, reverse_path run from {LAST} to 0"
            ));
        }
        let on_grid = |t: &&u16| **t >= FIRST && (**t - FIRST).is_multiple_of(STRIDE);
        let steps = self.forward_path.iter().chain(&self.reverse_path);
        match steps.filter(|t| **t != 0).find(|t| !on_grid(t)) {
            Some(t) => Err(format!(
                "the paths visit {t}, where the teacher makes no step: take {FIRST}, {}, {}, .. {LAST}",
                FIRST + STRIDE,
                FIRST + 2 * STRIDE
            )),
            None => Ok(()),
        }
    }

    /// What a stage learns from it.
    pub fn lessons(&self) -> Lessons {
        Lessons {
            batch: self.batch,
            parts: self.parts,
            at_once: self.at_once,
            recompute: self.recompute,
            rate: Rate {
                peak: self.rate,
                warmup: self.warmup,
                end: self.fall.then_some(self.steps),
            },
            guidance: self.guidance.clone(),
            optimiser: AdamWConfig {
                average: self.average,
                ..AdamWConfig::default()
            },
            seed: self.seed,
        }
    }

    /// Rank and alpha of the adapters.
    pub fn adapter(&self) -> Rank {
        Rank {
            rank: self.rank,
            alpha: self.alpha,
        }
    }

    /// The forward and the reverse path.
    pub fn paths(&self) -> Result<[Path; 2]> {
        Ok([
            Path::forward(&self.forward_path)?,
            Path::reverse(&self.reverse_path)?,
        ])
    }

    /// The weights of the losses of preservation.
    pub fn preservation(&self) -> Preservation {
        Preservation {
            forward: self.forward_preservation,
            reverse: self.reverse_preservation,
        }
    }
}

fn one() -> usize {
    1
}

fn rate() -> f64 {
    8e-6
}

fn guidance() -> Vec<f64> {
    vec![0.0, 7.0, 11.0, 15.0, 19.0]
}

fn save_every() -> usize {
    100
}

fn rank() -> usize {
    Rank::default().rank
}

fn alpha() -> f64 {
    Rank::default().alpha
}

fn forward_path() -> Vec<u16> {
    vec![19, 259, 519, 779, 999]
}

fn reverse_path() -> Vec<u16> {
    vec![999, 779, 519, 259, 0]
}

fn preservation() -> f64 {
    Preservation::default().forward
}
