//! `icd distill`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use candle_core::{DType, Device};
use clap::{Args, Subcommand, builder::FalseyValueParser};
use icd::{
    distill::{
        ConsistencyStage, DistillConfig, GuidanceStage, Progress, Run, Trainer, TrainingData,
        animated, captioned, uncaptioned, unpictured, write_report,
    },
    io::Source,
    model::{Model, required_files},
    nn::Placement,
};
use indicatif::{ProgressBar, ProgressState};

use crate::cli::{
    args::device::DeviceArgs,
    threads,
    ui::{
        download::{FetchOptions, fetch_missing},
        lines::{log_line, print_line},
        progress::progress_bar,
    },
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
    /// Download missing weights of the teacher without asking.
    #[arg(long, short, env = "ICD_YES", hide_env_values = true, value_parser = FalseyValueParser::new())]
    yes: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = r#"A configuration. Required are model, data, out, steps and batch; folders are
relative to the file:

  model = "sd15"            # the teacher: a preset or a diffusers folder
  unet = "guidance/unet"    # consistency only: the result of the first stage
  data = "pictures"         # with metadata.jsonl, or a .txt beside each picture
  out = "run"               # the output folder, another one for each stage
  steps = 6000
  batch = 8
  gradient_accumulation = 1         # micro-batches per batch: less memory
  parallel_micro_batches = 1        # at the same time: for small networks
  gradient_checkpointing = false    # less memory, a third more time
  dtype = "f32"             # of frozen weights: f32, f16 or bf16, in which
                            # some CPUs also compute all products faster
  learning_rate = 8e-6
  warmup = 0                # steps of linear warm-up
  lr_schedule = "constant"  # or "cosine", to zero
  guidance = [0.0, 7.0, 11.0, 15.0, 19.0]    # the scales to train
  ema_decay = 0.999         # save an EMA of the weights; or leave it out
  size = 512                # side of the pictures [default: the model's]
  save_every = 100          # steps between checkpoints
  sample_every = 0          # steps between sample images; 0: none
  seed = 0
  # Consistency only:
  rank = 64                 # of the adapters
  alpha = 8.0
  forward_timesteps = [19, 259, 519, 779, 999]
  reverse_timesteps = [999, 779, 519, 259, 0]
  forward_preservation = 1.5    # weights of the preservation losses; 0: none
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
        let (choice, yes) = (config.choice(), self.yes);
        let options = FetchOptions { yes, quiet: false };
        fetch_missing(&|| required_files(&choice), options)?;
        let model = Model::open(&choice, placement)?;
        tell_of_data(&config.data)?;
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
        let text = Source::from(&self.config).text()?;
        Ok(run(config).claim(&text)?)
    }
}

/// Warns of what a training does not use of its data.
fn tell_of_data(folder: &Path) -> Result<()> {
    let warn = |files: &[PathBuf], what: &str| {
        if let Some(first) = files.first() {
            let (count, first) = (files.len(), first.display());
            log_line(&format!("warning: {count} {what}: {first}, .."));
        }
    };
    warn(
        &uncaptioned(folder)?,
        "of the pictures have no caption (a .txt beside them) and are left out",
    );
    warn(
        &unpictured(folder)?,
        "of the captions have no picture that can be read beside them (PNG, JPEG, WebP, GIF or \
         BMP) and are left out",
    );
    warn(
        &animated(&captioned(folder)?)?,
        "of the pictures are animated, and only their first frames are used",
    );
    Ok(())
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
    let style = "{prefix} {bar:30} {pos}/{len} {speed}, left {eta} {wide_msg}";
    let speed = |state: &ProgressState, text: &mut dyn fmt::Write| {
        let _ = write!(text, "{:.1}/s", state.per_sec());
    };
    let bar = progress_bar(style, length as u64).with_prefix(what);
    bar.set_style(bar.style().with_key("speed", speed));
    bar
}
