//! `icd distill`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::{Args, Subcommand};
use icd::{
    distill::{
        ConsistencyStage, DistillConfig, GuidanceStage, Progress, Run, Trainer, TrainingData,
        uncaptioned, write_report,
    },
    io::read_text,
    model::Model,
    nn::Placement,
};
use indicatif::ProgressBar;

use crate::cli::{
    args::device::DeviceArgs,
    threads,
    ui::console::{log_line, print_line, progress_bar},
};

/// Distils a diffusion model into one that inverts and generates in a few steps.
///
/// First guidance: a copy of the UNet learns to take the guidance scale as an input.
/// Then consistency: two LoRA adapters for it, forward and reverse, are trained. Both
/// read a TOML file; see the example below.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DistillArgs {
    #[command(subcommand)]
    stage: StageArgs,
}

#[derive(Subcommand)]
enum StageArgs {
    /// Train a UNet to take the guidance scale as an input.
    #[command(after_help = EXAMPLES)]
    Guidance(RunArgs),
    /// Train the forward and the reverse adapter.
    #[command(after_help = EXAMPLES)]
    Consistency(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The configuration.
    #[arg(value_name = "RUN.TOML")]
    config: PathBuf,
    /// Resume from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = r#"A configuration; model, data, out, steps and batch are required, and folders are relative to the file:
  model = "sd15"          # the teacher: a preset or a folder in the diffusers layout
  unet = "guidance/unet"  # consistency only: the UNet that `icd distill guidance` wrote
  data = "pictures"       # metadata.jsonl with file_name and text, or a .txt beside each picture
  out = "run"             # the output folder; another one for each stage
  steps = 6000
  batch = 8
  gradient_accumulation = 1    # micro-batches per batch: more use less memory
  parallel_micro_batches = 1   # micro-batches at the same time: faster for small networks
  gradient_checkpointing = false    # recompute activations: less memory, a third more time
  dtype = "f32"           # of frozen weights: f32, f16 or bf16
  learning_rate = 8e-6
  warmup = 0              # steps of linear warm-up
  lr_schedule = "constant"     # or "cosine", to zero
  guidance = [0.0, 7.0, 11.0, 15.0, 19.0]    # the guidance scales to train
  ema_decay = 0.999       # save an EMA of the weights with this decay; leave out for the weights
  size = 512              # side of the pictures [default: the model's]
  save_every = 100        # steps between checkpoints
  sample_every = 0        # steps between sample images; 0: none
  seed = 0
  rank = 64               # LoRA rank; this and the rest: consistency only
  alpha = 8.0
  forward_timesteps = [19, 259, 519, 779, 999]
  reverse_timesteps = [999, 779, 519, 259, 0]
  forward_preservation = 1.5    # weights of the preservation losses; 0 disables one
  reverse_preservation = 1.5

Examples:
  icd distill guidance guidance.toml
  icd distill consistency consistency.toml --resume"#;

impl DistillArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let (StageArgs::Guidance(args) | StageArgs::Consistency(args)) = &self.stage;
        let (config, model, data) = args.open()?;
        let written = match self.stage {
            StageArgs::Guidance(_) => {
                let mut stage = GuidanceStage::new(&model, &config, data)?;
                train(&config, &mut stage)?;
                vec![stage.write(&model, &config)?]
            }
            StageArgs::Consistency(_) => {
                let mut stage = ConsistencyStage::new(&model, &config, data)?;
                train(&config, &mut stage)?;
                stage.write(&config)?.into()
            }
        };
        let mut written = written.iter();
        written.try_for_each(|path| print_line(&path.display().to_string()))
    }
}

impl RunArgs {
    fn open(&self) -> Result<(DistillConfig, Model, TrainingData)> {
        let config = DistillConfig::read(&self.config)?;
        if config.parallel_micro_batches > 1 {
            threads::leave_candle_one_thread();
        }
        self.check_state(&config)?;
        let placement = Placement::new(config.dtype.into(), self.device.open(&log_line)?);
        check_gradients(&placement)?;
        let model = Model::open(&config.choice(), placement)?;
        tell_left_out(&uncaptioned(&config.data)?);
        let bar = bar(0, "encoding the pictures");
        let data = TrainingData::open(&model, &config, &mut |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        Ok((config, model, data))
    }

    fn check_state(&self, config: &DistillConfig) -> Result<()> {
        let state = run(config).state_file();
        match (state.exists(), self.resume) {
            (true, false) => bail!(icd::Error::setting(format!(
                "{}: a training checkpoint exists: continue it with --resume, or set `out` to another folder",
                state.display()
            ))),
            (false, true) => log_line(&format!(
                "{}: no checkpoint yet, starting",
                state.parent().unwrap_or(Path::new("")).display()
            )),
            _ => {}
        }
        let text = read_text(&self.config).with_context(|| self.config.display().to_string())?;
        Ok(run(config).claim(&text)?)
    }
}

/// Tells which pictures have no caption.
fn tell_left_out(pictures: &[PathBuf]) {
    let Some(first) = pictures.first() else {
        return;
    };
    log_line(&format!(
        "warning: {} of the pictures have no caption (a .txt beside them) and are left out: {}, ..",
        pictures.len(),
        first.display()
    ));
}

/// Rejects placements with wrong or vanishing gradients.
fn check_gradients(placement: &Placement) -> Result<()> {
    let reason = match (&placement.device, placement.dtype) {
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

fn run(config: &DistillConfig) -> Run {
    Run {
        folder: config.out.clone(),
        steps: config.steps,
        save_every: config.save_every,
        sample_every: config.sample_every,
    }
}

/// Trains with a progress bar that shows speed, remaining time and the losses.
fn train(config: &DistillConfig, trainer: &mut dyn Trainer) -> Result<()> {
    let bar = bar(config.steps, "distilling");
    run(config).go(trainer, &mut |progress| {
        show(&bar, progress);
        Ok(())
    })?;
    bar.finish();
    let report = write_report(&config.out, &format!("Distillation of {}", config.model))?;
    log_line(&format!("curves: {}", report.display()));
    Ok(())
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.done as u64);
    if progress.metrics.is_empty() {
        bar.reset_eta();
        return;
    }
    let shown = progress
        .metrics
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"));
    bar.set_message(shown.collect::<Vec<_>>().join(", "));
}

fn bar(length: usize, what: &'static str) -> ProgressBar {
    let style = "{prefix} {bar:30} {pos}/{len} {per_sec}, left {eta} {wide_msg}";
    progress_bar(style, length as u64).with_prefix(what)
}
