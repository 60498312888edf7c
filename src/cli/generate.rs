//! `icd generate`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use icd::{
    Error,
    edit::generate,
    guidance::{Guidance, Tau},
    latents::write_tensors,
    model::Model,
    noise::Noise,
    picture::Size,
};
use serde_json::json;

use super::{
    Console, ReportArgs,
    model::ModelArgs,
    output::{self, WriteArgs, is_stdout, numbered},
    picture,
    prompts::tell_unread,
    settings::Settings,
    values::SizeValue,
};

/// Draws a new picture from a prompt.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GenerateArgs {
    /// What the picture shall show.
    #[arg(long)]
    prompt: String,
    /// The picture (- for stdout); several get -1, -2, .. [default: generated.png].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How many pictures, with seeds N, N+1, ..
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Seed of the noise; the same seed gives the reference's noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How strongly the prompt is followed [default: 7, or as the model's icd.toml says].
    #[arg(long)]
    guidance: Option<f64>,
    /// Where guidance ends: 1 is never; 0.8, or 0.7..0.9 for a ramp.
    #[arg(long, default_value = "1")]
    tau: Tau,
    /// The size: N for a square or WxH; the model's own by default.
    #[arg(long, value_name = "N|WxH")]
    size: Option<SizeValue>,
    /// The final latent, as safetensors.
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,
    /// Every intermediate value, as safetensors.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Leave the settings out of the PNG.
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    write: WriteArgs,
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
    pub(super) fn run(&self, settings: Settings) -> Result<()> {
        self.check_outputs()?;
        let console = Console::new(self.report, None);
        let model = self.model.open(&console)?;
        tell_unread(&[model.tokenizers()?.read(&self.prompt)?], &console);
        model.reverse_path()?; // it is missed before anything is loaded
        let strength = self.guidance.unwrap_or(model.generation_guidance());
        let guidance = Guidance::new(strength, self.tau)?;
        for index in 0..self.count as usize {
            self.draw(&model, guidance, index, &settings)?;
        }
        Ok(())
    }

    fn draw(
        &self,
        model: &Model,
        guidance: Guidance,
        index: usize,
        settings: &Settings,
    ) -> Result<()> {
        let name = |file: &PathBuf| self.numbered(file, index);
        let mut console = Console::new(self.report, self.dump.as_ref().map(name).as_deref());
        let seed = self.seed.wrapping_add(index as u64);
        let noise = Noise::new(seed).normal(self.shape(model)?, model.device())?;
        let latent = generate(model, &self.prompt, &noise, guidance, &mut |moment| {
            console.see(moment);
        })?;
        let drawn = picture::decoded(&model.vae()?, &latent, &console)?;
        let output = name(&self.output());
        let own = settings
            .clone()
            .with("seed", seed.to_string())
            .with("count", "1");
        picture::write(&drawn, &output, (!self.no_metadata).then_some(&own))?;
        if let Some(file) = &self.save_latents {
            write_tensors(
                &name(file),
                &vec![("latent".into(), latent)],
                std::collections::HashMap::new(),
            )?;
        }
        console.finish()?;
        console.result(&output, json!({ "prompt": self.prompt, "seed": seed }))
    }

    /// All files of the run can be written.
    fn check_outputs(&self) -> Result<()> {
        let output = self.output();
        output::format(&output)?;
        if is_stdout(&output) && (self.count > 1 || self.report.json) {
            let reason = "-o - holds one picture and nothing else: no --count, and no --json";
            return Err(Error::setting(reason).into());
        }
        let named = [
            Some(&output),
            self.save_latents.as_ref(),
            self.dump.as_ref(),
        ];
        let beside = named[1..].iter().copied().flatten();
        beside
            .clone()
            .try_for_each(|file| output::refuse_stdout(file))?;
        let indices = 0..self.count as usize;
        let files: Vec<_> = indices
            .flat_map(|i| {
                named
                    .into_iter()
                    .flatten()
                    .map(move |file| self.numbered(file, i))
            })
            .collect();
        self.write.check(&files)
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
        let own = Size::new(config.side * factor, config.side * factor);
        let size = self.size.map_or(own, SizeValue::size);
        let (height, width) = (size.height / factor, size.width / factor);
        Ok((1, config.latent_channels, height, width))
    }
}
