//! The stages of the making: their files, and how they are trained.

use std::{collections::HashMap, fs, path::PathBuf};

use anyhow::{Result, ensure};
use candle_core::{DType, Device};
use clap::ValueEnum;
use icd::{
    distill::{GradientAccumulation, Run, Trainer},
    io::{Checkpoint, Existing, Tensors, write_tensors},
    kernel::Arithmetic,
    nn::{Placement, Weights},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Options, autoencoder, base, export, grounding, look, words};

/// The folder of what finished stages leave.
const WEIGHTS: &str = "weights";

/// The stages of the making, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// The autoencoder
    Vae,
    /// The text encoder
    Words,
    /// The UNet
    Base,
    /// UNet and text encoder, until things are looked up at their own words
    Grounding,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vae => "vae",
            Self::Words => "words",
            Self::Base => "base",
            Self::Grounding => "grounding",
        }
    }

    fn run(self, options: &Options, steps: usize) -> Run {
        Run {
            folder: options.out.join(self.name()),
            steps,
            save_every: 100,
            sample_every: 0,
        }
    }

    /// The file of the weights in f16 that the finished stage leaves.
    fn finished(self, options: &Options) -> PathBuf {
        let name = format!("{}.safetensors", self.name());
        options.out.join(WEIGHTS).join(name)
    }

    /// Fails unless the stage is finished: the next one learns from its weights.
    pub(crate) fn require(self, options: &Options) -> Result<()> {
        let file = self.finished(options);
        ensure!(
            file.exists(),
            "{}: make the stage {} first",
            file.display(),
            self.name()
        );
        Ok(())
    }

    /// The weights by name: those of the finished stage, or what it has learnt so far.
    pub(crate) fn weights(self, options: &Options) -> Result<Learnt> {
        let finished = self.finished(options);
        let (file, prefix) = match finished.exists() {
            true => (finished, String::new()),
            false => (
                self.run(options, 0).state_file(),
                format!("{}.average", self.name()),
            ),
        };
        let checkpoint = Checkpoint::open(file)?;
        Ok(Learnt { checkpoint, prefix })
    }

    /// Trains the stage if it is not finished; the last one leaves a model folder.
    pub(crate) fn make(self, options: &Options) -> Result<()> {
        if !self.finished(options).exists() {
            match self {
                Self::Vae => autoencoder::make(options),
                Self::Words => words::make(options),
                Self::Base => base::make(options),
                Self::Grounding => grounding::make(options),
            }?;
        }
        match self {
            Self::Grounding => export::model(options, self),
            Self::Vae | Self::Words | Self::Base => Ok(()),
        }
    }

    pub(crate) fn look(self, options: &Options) -> Result<()> {
        match self {
            Self::Vae => look::autoencoder(options),
            Self::Words => words::look(options),
            Self::Base | Self::Grounding => look::teacher(options, self),
        }
    }

    /// Trains the stage with a bar that shows what it measures, and leaves its weights.
    pub(crate) fn train(
        self,
        options: &Options,
        steps: usize,
        trainer: &mut dyn Trainer,
    ) -> Result<()> {
        let style = "{prefix} {bar:30} {pos}/{len} {elapsed} left {eta} {msg}";
        let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(style)?);
        bar.set_prefix(self.name());
        self.run(options, steps).go(trainer, &mut |progress| {
            if progress.metrics.is_empty() {
                bar.set_position(progress.done as u64);
                bar.reset_eta();
            }
            let shown = progress.metrics.iter();
            let shown = shown.map(|(name, value)| format!("{name} {value:.4}"));
            bar.set_message(shown.collect::<Vec<_>>().join(" "));
            bar.set_position(progress.done as u64);
            Ok(())
        })?;
        bar.finish();
        let tensors = self.weights(options)?.below("", DType::F16)?;
        let file = self.finished(options);
        fs::create_dir_all(options.out.join(WEIGHTS))?;
        Ok(write_tensors(
            &file,
            &tensors,
            HashMap::new(),
            Existing::Replace,
        )?)
    }
}

/// The weights of a stage.
pub(crate) struct Learnt {
    pub(crate) checkpoint: Checkpoint,
    /// Above its names in the checkpoint; may be empty.
    prefix: String,
}

impl Learnt {
    pub(crate) fn weights<'a>(&'a self, storage: &'a Placement) -> Weights<'a> {
        Weights::new(&self.checkpoint, storage).at(&self.prefix)
    }

    /// The tensors below `module`, which may be empty, named without it.
    pub(crate) fn below(&self, module: &str, dtype: DType) -> Result<Tensors> {
        let mut names = self.checkpoint.names();
        names.sort_unstable();
        let take = |name: &String| {
            let own = inside(module, inside(&self.prefix, name)?)?;
            Some((own.to_owned(), name.clone()))
        };
        let load = |(own, name): (String, String)| {
            let tensor = self.checkpoint.load(&name, &Device::Cpu)?;
            Ok((own, tensor.to_dtype(dtype)?))
        };
        names.iter().filter_map(take).map(load).collect()
    }
}

/// The name of a tensor within a module, all of them if that has no name.
fn inside<'a>(module: &str, name: &'a str) -> Option<&'a str> {
    match module {
        "" => Some(name),
        _ => name.strip_prefix(module)?.strip_prefix('.'),
    }
}

/// Small networks learn fastest on a CPU, with products in bf16 where it multiplies that
/// faster than f32; what is learnt is kept in f32.
pub(crate) fn storage() -> Placement {
    let dtype = match Arithmetic::prefers_bf16() {
        true => DType::BF16,
        false => DType::F32,
    };
    Placement::new(dtype, Device::Cpu)
}

/// The networks are too small to keep several threads busy with one operation, so every
/// thread learns `rows` of its own: few enough that what they leave fits its cache.
pub(crate) fn accumulation(batch: usize, rows: usize) -> Result<GradientAccumulation> {
    let threads = rayon::current_num_threads();
    Ok(GradientAccumulation::new(batch, batch / rows, threads)?)
}
