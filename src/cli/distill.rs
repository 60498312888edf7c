//! `icd distill`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::{Args, Subcommand};
use icd::{
    distil::{
        DistilConfig, Learner, Material, Progress, Run, consistency_stage, guidance_stage,
        write_report,
    },
    model::Model,
    nn::Storage,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    alone,
    console::{say, tell},
    device::device,
    set_threads,
};

/// Makes a model that walks in a few steps out of one that needs many.
///
/// Guidance first: a copy of the UNet learns to take the guidance strength as
/// an input. Then consistency: two adapters over it learn the way into noise
/// and the way back. Both read a TOML file; see the example below.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DistillArgs {
    #[command(subcommand)]
    stage: StageArgs,
}

#[derive(Subcommand)]
enum StageArgs {
    /// Teach a UNet to take the guidance strength as an input.
    #[command(after_help = EXAMPLES)]
    Guidance(RunArgs),
    /// Teach two adapters the way into noise and back.
    #[command(after_help = EXAMPLES)]
    Consistency(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The file that describes the run.
    #[arg(value_name = "RUN.TOML")]
    config: PathBuf,
    /// Go on from the saved state in the output folder.
    #[arg(long)]
    resume: bool,
    /// auto, cpu, cuda[:N] or metal[:N].
    #[arg(
        long,
        env = "ICD_DEVICE",
        hide_env_values = true,
        default_value = "auto"
    )]
    device: String,
    /// CPU threads; all cores by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

const EXAMPLES: &str = "\
A run in TOML; model, data, out, steps and batch must be there, and folders start at the file's own:
  model = \"sd15\"          # the teacher: a preset or a folder in the diffusers layout
  unet = \"run/unet\"      # another UNet for it, as `distill guidance` writes it
  data = \"pictures\"       # metadata.jsonl with file_name and text, or a .txt beside each picture
  out = \"run\"             # everything that is written
  steps = 6000
  batch = 8
  parts = 1               # learn the batch in so many parts, which takes less memory ..
  at_once = 1             # .. several at the same time: faster where the network is small
  recompute = false       # compute blocks again on the way back: less memory, a third more time
  dtype = \"f32\"           # how frozen weights are kept: f32, f16 or bf16
  rate = 8e-6             # the highest learning rate ..
  warmup = 0              # .. reached after so many steps ..
  fall = false            # .. and brought to zero towards the end
  guidance = [0.0, 7.0, 11.0, 15.0, 19.0]    # the strengths that are learnt
  average = 0.999         # write a running mean of the weights [default: the weights]
  size = 512              # side of the pictures [default: the model's]
  save_every = 100        # steps between two saved states
  sample_every = 0        # steps between two sheets of pictures by the weights as they are; 0: none
  seed = 0
  rank = 64               # of the adapters, as all that follows
  alpha = 8.0
  forward_path = [19, 259, 519, 779, 999]
  reverse_path = [999, 779, 519, 259, 0]
  forward_preservation = 1.5    # weights of the two losses; 0 leaves one out
  reverse_preservation = 1.5

Examples:
  icd distill guidance guidance.toml
  icd distill consistency consistency.toml --resume";

impl DistillArgs {
    pub(super) fn run(&self) -> Result<()> {
        match &self.stage {
            StageArgs::Guidance(args) => args.guidance(),
            StageArgs::Consistency(args) => args.consistency(),
        }
    }
}

impl RunArgs {
    fn guidance(&self) -> Result<()> {
        let (config, model, material) = self.open()?;
        let mut stage = guidance_stage(&model, &config, material)?;
        train(&config, &mut stage)?;
        tell(&stage.write(&model, &config)?.display().to_string())
    }

    fn consistency(&self) -> Result<()> {
        let (config, model, material) = self.open()?;
        let mut stage = consistency_stage(&model, &config, material)?;
        train(&config, &mut stage)?;
        for file in stage.write(&config)? {
            tell(&file.display().to_string())?;
        }
        Ok(())
    }

    fn open(&self) -> Result<(DistilConfig, Model, Material)> {
        let config = DistilConfig::read(&self.config)?;
        if config.at_once > 1 {
            alone::leave_candle_one_thread();
        }
        self.check_state(&config)?;
        set_threads(self.threads.map(usize::from))?;
        let storage = Storage {
            dtype: config.dtype.into(),
            device: device(&self.device, &say)?,
        };
        check_learning(&storage)?;
        let model = Model::open(&config.choice(), storage)
            .with_context(|| format!("model {}", config.model))?;
        let bar = bar(0, "encoding the pictures")?;
        let material = Material::open(&model, &config, &mut |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        Ok((config, model, material))
    }

    fn check_state(&self, config: &DistilConfig) -> Result<()> {
        let state = run(config).state_file();
        match (state.exists(), self.resume) {
            (true, false) => bail!(icd::Error::setting(format!(
                "{}: there is a saved state: add --resume to go on from it, or name another out",
                state.display()
            ))),
            (false, true) => say(&format!(
                "{}: no saved state yet, beginning",
                state.parent().unwrap_or(Path::new("")).display()
            )),
            _ => {}
        }
        Ok(())
    }
}

/// Refuses what computes gradients that teach nothing.
fn check_learning(storage: &Storage) -> Result<()> {
    let reason = match (&storage.device, storage.dtype) {
        (Device::Metal(_), _) => {
            "candle computes wrong gradients of convolutions on Metal: distil with --device cpu"
        }
        (Device::Cuda(_), DType::F16) => {
            "gradients are too small for f16 on a GPU: write dtype = \"bf16\" or \"f32\""
        }
        _ => return Ok(()),
    };
    bail!(icd::Error::setting(reason))
}

fn run(config: &DistilConfig) -> Run {
    Run {
        folder: config.out.clone(),
        steps: config.steps,
        save_every: config.save_every,
        sample_every: config.sample_every,
    }
}

/// Trains with a bar that shows rate, remaining time and what was measured.
fn train(config: &DistilConfig, learner: &mut dyn Learner) -> Result<()> {
    let bar = bar(config.steps, "distilling")?;
    run(config).go(learner, &mut |progress| {
        show(&bar, progress);
        Ok(())
    })?;
    bar.finish();
    let report = write_report(&config.out, &format!("Distillation of {}", config.model))?;
    say(&format!("curves: {}", report.display()));
    Ok(())
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.done as u64);
    if progress.measures.is_empty() {
        bar.reset_eta();
        return;
    }
    let shown = progress
        .measures
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"));
    bar.set_message(shown.collect::<Vec<_>>().join(", "));
}

fn bar(length: usize, what: &'static str) -> Result<ProgressBar> {
    let style = "{prefix} {bar:30} {pos}/{len} {per_sec}, left {eta} {wide_msg}";
    let style = ProgressStyle::with_template(style)?;
    Ok(ProgressBar::new(length as u64)
        .with_style(style)
        .with_prefix(what))
}
