//! The configuration file of a distillation, in TOML.

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde::Deserialize;

use super::{
    AdamWConfig, LrSchedule,
    consistency::{FIRST, LAST, STRIDE},
};
use crate::{
    error::{Error, Result},
    io::Source,
    lora::LoraConfig,
    model::{ModelChoice, PRESETS},
    schedule::Timesteps,
};

/// The type of stored weights, on a GPU also of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit IEEE.
    #[default]
    F32,
    /// 16-bit IEEE.
    F16,
    /// 16-bit brain floating point, with the range of f32.
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

/// The decay of the learning rate after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Decay {
    /// No decay.
    #[default]
    Constant,
    /// Cosine decay to zero at the last step.
    Cosine,
}

impl TryFrom<toml::Value> for Decay {
    type Error = &'static str;

    /// `"constant"` or `"cosine"`; a boolean in older files.
    fn try_from(value: toml::Value) -> Result<Self, Self::Error> {
        match (value.as_str(), value.as_bool()) {
            (Some("constant"), _) | (_, Some(false)) => Ok(Self::Constant),
            (Some("cosine"), _) | (_, Some(true)) => Ok(Self::Cosine),
            _ => Err("it must be \"constant\" or \"cosine\""),
        }
    }
}

/// The configuration of a distillation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// The teacher: a preset's name, or a folder in the diffusers layout.
    pub model: String,
    /// Another UNet for it, such as the result of the guidance distillation: a file or
    /// folder, or `hub:owner/name[/file]`.
    pub unet: Option<String>,
    /// The folder of captioned pictures.
    pub data: PathBuf,
    /// The output folder.
    pub out: PathBuf,
    /// Side of the pictures in pixels; by default the model's.
    pub size: Option<usize>,
    /// Number of steps.
    pub steps: usize,
    /// Batch size.
    pub batch: usize,
    /// Number of micro-batches per step, whose gradients are added: more of them take
    /// less memory. 1 by default.
    #[serde(default = "one", alias = "parts")]
    pub gradient_accumulation: usize,
    /// Micro-batches that run in parallel, each on its part of the CPU's threads: faster
    /// for networks too small to use many threads.
    #[serde(default = "one", alias = "at_once")]
    pub parallel_micro_batches: usize,
    /// Whether activations are recomputed in the backward pass: much less memory, for a
    /// third more time.
    #[serde(default, alias = "recompute")]
    pub gradient_checkpointing: bool,
    /// The type of weights that are not trained. With bf16, a CPU that multiplies it faster than
    /// f32 computes the products of both passes in it, with sums, trained weights and their
    /// optimiser in f32.
    #[serde(default)]
    pub dtype: Precision,
    /// The peak learning rate.
    #[serde(default = "learning_rate", alias = "rate")]
    pub learning_rate: f64,
    /// Number of warm-up steps.
    #[serde(default)]
    pub warmup: usize,
    /// The decay of the learning rate after the warm-up.
    #[serde(default, alias = "fall")]
    pub lr_schedule: Decay,
    /// The guidance strengths to train on.
    #[serde(default = "guidance")]
    pub guidance: Vec<f64>,
    /// Decay of an exponential moving average of the weights, which is then written
    /// instead of the weights.
    #[serde(alias = "average")]
    pub ema_decay: Option<f64>,
    /// Steps between two saved states.
    #[serde(default = "save_every")]
    pub save_every: usize,
    /// Steps between two sheets of sample pictures; 0 for none.
    #[serde(default)]
    pub sample_every: usize,
    /// The seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// Rank of the adapters.
    #[serde(default = "rank")]
    pub rank: usize,
    /// Alpha of the adapters.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// The timesteps of the forward adapter.
    #[serde(default = "forward_timesteps", alias = "forward_path")]
    pub forward_timesteps: Vec<u16>,
    /// The timesteps of the reverse adapter.
    #[serde(default = "reverse_timesteps", alias = "reverse_path")]
    pub reverse_timesteps: Vec<u16>,
    /// Weight of the forward preservation loss, relative to the consistency losses; 0 disables it.
    #[serde(default = "preservation")]
    pub forward_preservation: f64,
    /// Weight of the reverse preservation loss, relative to the consistency losses; 0 disables it.
    #[serde(default = "preservation")]
    pub reverse_preservation: f64,
}

/// Most steps of a run.
const MAX_STEPS: f64 = 1e9;
/// Most pictures per step.
const MAX_BATCH: f64 = 4096.0;
/// Highest rank of adapters, that of full weights in Stable Diffusion's widest layers.
const MAX_RANK: f64 = 1280.0;
/// Most pixels per side of the pictures.
const MAX_SIZE: f64 = 8192.0;
/// Largest alpha and weight of a loss.
const MAX_WEIGHT: f64 = 1e6;

impl DistillConfig {
    /// Reads a file; paths in it are relative to its folder.
    pub fn read(file: &Path) -> Result<Self> {
        let text = Source::from(file).text()?;
        let config: Self = toml::from_str(&text).map_err(|error| Error::config(file, error))?;
        let base = file.parent().unwrap_or(Path::new(""));
        let checked = config.check();
        checked.map_err(|reason| Error::config(file, reason))?;
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
        self.check_ranges()?;
        if self.guidance.is_empty() || self.guidance.iter().any(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err("guidance must be strengths of 0 or more, as in [0, 7, 19]".into());
        }
        if self.ema_decay.is_some_and(|x| !(0.0..1.0).contains(&x)) {
            return Err("ema_decay must be from 0 to below 1, as in 0.999".into());
        }
        if !(1..=self.batch).contains(&self.gradient_accumulation) {
            return Err(format!(
                "gradient_accumulation must be from 1 to the batch of {}",
                self.batch
            ));
        }
        self.check_paths()
    }

    /// Every number that becomes a loop, an allocation or a factor must be in its range.
    fn check_ranges(&self) -> Result<(), String> {
        let count = |name, value: usize, most| (name, value as f64, 1.0..=most);
        let ranges = [
            count("steps", self.steps, MAX_STEPS),
            count("save_every", self.save_every, MAX_STEPS),
            count("batch", self.batch, MAX_BATCH),
            count(
                "parallel_micro_batches",
                self.parallel_micro_batches,
                MAX_BATCH,
            ),
            count("rank", self.rank, MAX_RANK),
            count("size", self.size.unwrap_or(1), MAX_SIZE),
            ("warmup", self.warmup as f64, 0.0..=MAX_STEPS),
            ("sample_every", self.sample_every as f64, 0.0..=MAX_STEPS),
            ("learning_rate", self.learning_rate, f64::MIN_POSITIVE..=1.0),
            ("alpha", self.alpha, f64::MIN_POSITIVE..=MAX_WEIGHT),
            (
                "forward_preservation",
                self.forward_preservation,
                0.0..=MAX_WEIGHT,
            ),
            (
                "reverse_preservation",
                self.reverse_preservation,
                0.0..=MAX_WEIGHT,
            ),
        ];
        let wrong = ranges
            .iter()
            .find(|(_, value, range)| !range.contains(value));
        match wrong {
            Some((name, value, range)) if *range.start() < 1.0 && !range.contains(&0.0) => {
                Err(format!(
                    "{name} = {value}: it must be greater than 0 and at most {}",
                    range.end()
                ))
            }
            Some((name, value, range)) => Err(format!(
                "{name} = {value}: it must be from {} to {}",
                range.start(),
                range.end()
            )),
            None => Ok(()),
        }
    }

    /// The timesteps must begin and end at those of the diffusion and otherwise be the
    /// teacher's.
    fn check_paths(&self) -> Result<(), String> {
        let [forward, reverse] = self.paths().map_err(|error| error.to_string())?;
        let ends = [forward.end(), reverse.start(), reverse.end()].map(|t| t.0);
        if ends != [LAST, LAST, 0] {
            return Err(format!(
                "forward_timesteps must end at {LAST}, reverse_timesteps run from {LAST} to 0"
            ));
        }
        let on_grid = |t: &&u16| **t >= FIRST && (**t - FIRST).is_multiple_of(STRIDE);
        let steps = self.forward_timesteps.iter().chain(&self.reverse_timesteps);
        match steps.filter(|t| **t != 0).find(|t| !on_grid(t)) {
            Some(t) => Err(format!(
                "{t} is not a timestep of the teacher: choose from {FIRST}, {}, {}, .. {LAST}",
                FIRST + STRIDE,
                FIRST + 2 * STRIDE
            )),
            None => Ok(()),
        }
    }

    /// The learning rate of a step, numbered from 0.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let schedule = LrSchedule {
            peak: self.learning_rate,
            warmup: self.warmup,
            end: (self.lr_schedule == Decay::Cosine).then_some(self.steps),
        };
        schedule.at(step)
    }

    /// The settings of the optimisers.
    pub fn optimiser(&self) -> AdamWConfig {
        AdamWConfig {
            average: self.ema_decay,
            ..AdamWConfig::default()
        }
    }

    /// Rank and alpha of the adapters.
    pub fn adapter(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
        }
    }

    /// The forward and the reverse timesteps.
    pub fn paths(&self) -> Result<[Timesteps; 2]> {
        Ok([
            Timesteps::forward(&self.forward_timesteps)?,
            Timesteps::reverse(&self.reverse_timesteps)?,
        ])
    }
}

fn one() -> usize {
    1
}

fn learning_rate() -> f64 {
    8e-6
}

fn guidance() -> Vec<f64> {
    vec![0.0, 7.0, 11.0, 15.0, 19.0]
}

fn save_every() -> usize {
    100
}

fn rank() -> usize {
    LoraConfig::default().rank
}

fn alpha() -> f64 {
    LoraConfig::default().alpha
}

fn forward_timesteps() -> Vec<u16> {
    vec![19, 259, 519, 779, 999]
}

fn reverse_timesteps() -> Vec<u16> {
    vec![999, 779, 519, 259, 0]
}

/// As in the reference.
fn preservation() -> f64 {
    1.5
}
