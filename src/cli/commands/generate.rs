//! `icd generate`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use candle_core::Tensor;
use clap::Args;
use icd::{
    Error,
    guidance::{Guidance, Tau},
    io::write_tensors,
    model::Model,
    noise::Noise,
    picture::{Picture, Size},
    pipeline::{Pipeline, Residency},
};
use serde_json::json;

use crate::cli::{
    Console, ReportArgs,
    args::{
        model::ModelArgs,
        output::{self, SaveArgs, is_stdout, numbered},
        values::size,
    },
    picture,
    settings::Settings,
    ui::prompts::warn_unread,
};

/// Generates a picture from a prompt.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GenerateArgs {
    /// What the picture should show.
    #[arg(long)]
    prompt: String,
    /// The picture (- for stdout); several get -1, -2, .. [default: generated.png].
    #[arg(long, short, value_name = "FILE", value_parser = output::picture())]
    output: Option<PathBuf>,
    /// The number of pictures, with seeds SEED, SEED+1, ..; written together at the end, or
    /// one by one with --residency all or shared.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Seed of the noise, which is that of PyTorch's CPU generator.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Guidance scale [default: 7, or as the model's icd.toml says].
    #[arg(long)]
    guidance: Option<f64>,
    /// The fraction of the timesteps, from clean (0) to noise (1), above which guidance is off: 1 guides
    /// every step; 0.7..0.9 is a ramp.
    #[arg(long, default_value = "1")]
    tau: Tau,
    /// The size: N for a square, or WxH [default: the model's].
    #[arg(long, value_name = "N|WxH", value_parser = size)]
    size: Option<Size>,
    /// The final latent, as safetensors.
    #[arg(long, value_name = "FILE", value_parser = output::tensors())]
    save_latents: Option<PathBuf>,
    #[command(flatten)]
    save: SaveArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd generate --prompt \"a cute owl with a graduation cap\" --seed 150 -o owl.png
  icd generate --prompt \"a lighthouse at dawn\" --count 4 --tau 0.8";

impl GenerateArgs {
    pub(crate) fn run(&self, settings: Settings) -> Result<()> {
        self.check_outputs()?;
        let console = Console::new(self.report, false);
        let pipeline = self.model.open(&console)?;
        let model = pipeline.model();
        warn_unread(&[model.tokenizers()?.tokenize(&self.prompt)?], &console);
        model.reverse_timesteps()?; // fail before anything is loaded
        drop(console);
        let indices: Vec<_> = (0..self.count as usize).collect();
        let together = match pipeline.residency() {
            Residency::OneAtATime => indices.len(), // each network is loaded once
            Residency::All | Residency::Shared => 1,
        };
        let mut batches = indices.chunks(together);
        batches.try_for_each(|batch| self.generate(&pipeline, batch, &settings))
    }

    /// Generates and writes the pictures with these indices.
    fn generate(&self, pipeline: &Pipeline, batch: &[usize], settings: &Settings) -> Result<()> {
        let mut console = Console::new(self.report, self.save.dump.is_some());
        let guidance = self.guidance(pipeline.model())?;
        let noises = batch
            .iter()
            .map(|&index| self.noise(pipeline.model(), index));
        let noises: Vec<_> = noises.collect::<icd::Result<_>>()?;
        let latents = pipeline.generate(&self.prompt, &noises, guidance, &mut console)?;
        let pictures = pipeline.decode(&Tensor::cat(&latents, 0)?, &mut console)?;
        console.finish();
        for (row, &index) in batch.iter().enumerate() {
            self.write(index, &pictures[row], &latents[row], settings)?;
            let named = |file: &PathBuf| self.numbered(file, index);
            let dump = self.save.dump.as_ref().map(named);
            console.write_dump(dump.as_deref(), row, self.save.write.existing())?;
            let facts = json!({ "prompt": self.prompt, "seed": self.seed(index) });
            console.result(&named(&self.output()), row, facts)?;
        }
        Ok(())
    }

    fn guidance(&self, model: &Model) -> icd::Result<Guidance> {
        let strength = self.guidance.unwrap_or(model.generation_guidance());
        Guidance::new(strength, self.tau)
    }

    fn seed(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }

    fn noise(&self, model: &Model, index: usize) -> icd::Result<Tensor> {
        Noise::new(self.seed(index)).normal(self.shape(model)?, model.device())
    }

    /// Writes a picture, and its latent if requested.
    fn write(
        &self,
        index: usize,
        picture: &Picture,
        latent: &Tensor,
        settings: &Settings,
    ) -> Result<()> {
        let seed = self.seed(index).to_string();
        let own = settings.clone().with("seed", seed).with("count", "1");
        let file = self.numbered(&self.output(), index);
        let existing = self.save.write.existing();
        picture::write(
            picture,
            &file,
            (!self.save.no_metadata).then_some(&own),
            existing,
        )?;
        if let Some(file) = &self.save_latents {
            let latents = vec![("latent".into(), latent.clone())];
            write_tensors(
                &self.numbered(file, index),
                &latents,
                HashMap::new(),
                existing,
            )?;
        }
        Ok(())
    }

    /// Checks that all output files can be written.
    fn check_outputs(&self) -> Result<()> {
        let output = self.output();
        let reason = "-o - writes one picture to stdout: use --count 1 and no --json";
        let is_alone = self.count == 1 && !self.report.json;
        ensure!(is_alone || !is_stdout(&output), Error::setting(reason));
        let beside = [&self.save_latents, &self.save.dump];
        let named: Vec<_> = [&output]
            .into_iter()
            .chain(beside.into_iter().flatten())
            .collect();
        let count = self.count as usize;
        let numbered = |file: &PathBuf| -> Vec<_> {
            let indices = 0..count;
            indices.map(|i| self.numbered(file, i)).collect()
        };
        let files: Vec<_> = named.into_iter().flat_map(numbered).collect();
        self.save.write.check(&files)?;
        let tensors = &files[count..]; // behind the pictures
        output::check_inputs(tensors, &self.model.inputs())
    }

    fn numbered(&self, file: &Path, index: usize) -> PathBuf {
        numbered(file, index + 1, self.count as usize)
    }

    fn output(&self) -> PathBuf {
        self.output
            .clone()
            .unwrap_or_else(|| "generated.png".into())
    }

    /// The latent's shape (1, 4, h, w).
    fn shape(&self, model: &Model) -> icd::Result<(usize, usize, usize, usize)> {
        let (config, factor) = (model.unet_config(), model.latent_factor()?);
        let own = Size::new(model.side()?, model.side()?);
        let size = self.size.unwrap_or(own);
        let (height, width) = (size.height / factor, size.width / factor);
        Ok((1, config.in_channels, height, width))
    }
}
