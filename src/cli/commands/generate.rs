//! `icd generate`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    slice,
};

use anyhow::{Result, ensure};
use candle_core::Tensor;
use clap::Args;
use icd::{
    Error,
    guidance::{Guidance, Tau},
    io::write_tensors,
    model::{MethodName, Model},
    noise::Noise,
    picture::{Picture, Size},
    pipeline::{Generate, Method, Pipeline, Residency, Workload},
    prompt::Prompt,
    schedule::DdimSteps,
};
use serde_json::Value;

use crate::cli::{
    Console, ReportArgs,
    args::{
        model::ModelArgs,
        output::{self, SaveArgs, is_stdout, numbered},
        values::{Seed, size},
    },
    picture,
    settings::Settings,
    ui::{
        dry_run::{self, Work},
        prompts::warn_of_prompts,
        warnings::{warn_of_guidance, warn_of_other_model, warn_of_size},
    },
};

/// Most pictures of one run: all names are checked, and the noise of all may be drawn, before
/// the first is written.
const MAX_COUNT: i64 = 10_000;

/// Generates a picture from a prompt.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GenerateArgs {
    /// What the picture should show.
    #[arg(long, required_unless_present = "from", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Reuse the prompt and settings in a picture that `icd generate` wrote; flags override
    /// them.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The picture (- for stdout); several get -1, -2, .. [default: generated.png].
    #[arg(long, short, value_name = "FILE", value_parser = output::picture())]
    pub(crate) output: Option<PathBuf>,
    /// The number of pictures, at most 10000, with seeds SEED, SEED+1, ..; written together at the end, or
    /// one by one with --residency all or shared.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub(crate) count: u32,
    /// Seed of the noise, which is that of PyTorch's CPU generator; random: another one each
    /// time, which is told.
    #[arg(
        long,
        value_name = "N|random",
        default_value = "0",
        allow_negative_numbers = true
    )]
    pub(crate) seed: Seed,
    /// Guidance scale [default: 7, or as the model's icd.toml says; 7.5 with --steps, where 1 is
    /// unguided].
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// The fraction of the timesteps, from clean (0) to noise (1), above which guidance is off: 1 guides
    /// every step; 0.7..0.9 is a ramp.
    #[arg(long, default_value = "1", allow_negative_numbers = true)]
    tau: Tau,
    /// DDIM steps of the model without adapters, with classifier-free guidance [default: the
    /// steps of the reverse adapter; 50 with --negative-prompt or without adapters].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<DdimSteps>,
    /// What the picture should not show: what classifier-free guidance leads away from; see
    /// --steps.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    negative_prompt: Option<String>,
    /// The size: N for a square, or WxH [default: the model's].
    #[arg(long, value_name = "N|WxH", value_parser = size)]
    size: Option<Size>,
    /// The final latent, as safetensors.
    #[arg(long, value_name = "FILE", value_parser = output::tensors())]
    save_latents: Option<PathBuf>,
    /// Print what would be done (tokens, evaluations, memory, time); load no weights.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) save: SaveArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd generate --prompt \"a cute owl with a graduation cap\" --seed 150 \\
      -o owl.png
  icd generate --prompt \"a lighthouse at dawn\" --count 4 --tau 0.8
  icd generate --prompt \"a lighthouse at dawn\" --steps 30 \\
      --negative-prompt \"blurred\"
  icd generate --from generated-2.png --seed random -o another.png";

impl GenerateArgs {
    pub(crate) fn run(&self, settings: Settings) -> Result<()> {
        self.check_outputs()?;
        let console = Console::new(self.report, false);
        let pipeline = self.model.open(&console)?;
        let prepared = self.prepared(&pipeline, settings, &console)?;
        if self.dry_run {
            console.clear();
            return self.print_plan(&pipeline, &prepared);
        }
        drop(console);
        self.save
            .check_settings(&self.output(), &prepared.settings(0))?;
        self.make(&pipeline, &prepared)
    }

    /// Checks the generation against the model; no network is loaded.
    pub(crate) fn prepared(
        &self,
        pipeline: &Pipeline,
        settings: Settings,
        console: &Console,
    ) -> Result<Prepared> {
        let model = pipeline.model();
        let text = self.prompt.clone().unwrap_or_default();
        let prompt = model.tokenizers()?.tokenize(&text)?;
        let method = self.method(model);
        let guidance = self.guidance(model, &method)?;
        let size = self.size(model)?;
        warn_of_prompts(model, slice::from_ref(&prompt), console)?;
        warn_of_guidance(guidance, console);
        warn_of_size(model, size, console)?;
        warn_of_other_model(model, &settings, console)?;
        method.reverse_timesteps(model)?; // fails before anything is loaded
        let settings = settings.of_method(&method).of_guidance(guidance);
        let settings = settings.leaving_out(&["method"]).made_with(model)?;
        Ok(Prepared {
            generate: Generate {
                prompt: text,
                negative_prompt: self.negative_prompt.clone(),
                guidance,
                method,
            },
            prompt,
            size,
            latent: model.latent_size(size)?,
            seed: self.seed.told(console),
            count: self.count as usize,
            settings,
        })
    }

    /// Tells what the generation would do and take.
    fn print_plan(&self, pipeline: &Pipeline, prepared: &Prepared) -> Result<()> {
        let model = pipeline.model();
        let work = Work::of(pipeline, prepared.workload(model)?, prepared.size)?;
        let Prepared {
            prompt, generate, ..
        } = prepared;
        let guided = (&generate.method, generate.guidance);
        dry_run::print_generation(model, prompt, guided, &work, self.report.json)
    }

    /// DDIM if it is asked for, or the model is for it; else the reverse consistency model.
    fn method(&self, model: &Model) -> Method {
        let (usual, steps) = model.method();
        let is_asked = self.steps.is_some() || self.negative_prompt.is_some();
        match is_asked || usual != MethodName::Icd || model.is_plain() {
            true => Method::Ddim(self.steps.unwrap_or(steps)),
            false => Method::Icd,
        }
    }

    fn guidance(&self, model: &Model, method: &Method) -> icd::Result<Guidance> {
        let usual = match method {
            Method::Icd => model.generation_guidance(),
            _ => (model.stated_guidance(model.method().0).0)
                .filter(|_| model.method().0 != MethodName::Icd)
                .unwrap_or(Guidance::USUAL_SCALE),
        };
        method.guidance(self.guidance.unwrap_or(usual), self.tau)
    }

    fn size(&self, model: &Model) -> icd::Result<Size> {
        match self.size {
            Some(size) => Ok(size),
            None => model.size(),
        }
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
        let numbered = |i| named.iter().map(move |file| self.numbered(file, i));
        let files: Vec<_> = (0..count).flat_map(numbered).collect();
        if self.dry_run {
            return Ok(()); // writes nothing
        }
        self.save.write.check(&files)?;
        output::check_distinct(&files)?;
        let tensors = beside.into_iter().flatten();
        let numbered = |i| tensors.clone().map(move |file| self.numbered(file, i));
        let tensors: Vec<_> = (0..count).flat_map(numbered).collect();
        output::check_inputs(&tensors, [], &self.model.inputs())
    }

    fn numbered(&self, file: &Path, index: usize) -> PathBuf {
        numbered(file, index + 1, self.count as usize)
    }

    fn output(&self) -> PathBuf {
        self.output
            .clone()
            .unwrap_or_else(|| "generated.png".into())
    }
}

impl GenerateArgs {
    fn make(&self, pipeline: &Pipeline, prepared: &Prepared) -> Result<()> {
        let indices: Vec<_> = (0..prepared.count).collect();
        let together = match pipeline.residency() {
            Residency::OneAtATime => indices.len(), // each network is loaded once
            Residency::All | Residency::Shared => 1,
        };
        let mut batches = indices.chunks(together);
        batches.try_for_each(|batch| self.generate(pipeline, prepared, batch))
    }

    /// Generates and writes the pictures with these indices.
    fn generate(&self, pipeline: &Pipeline, prepared: &Prepared, batch: &[usize]) -> Result<()> {
        let mut console = Console::new(self.report, self.save.dump.is_some());
        let (latents, pictures) = prepared.pictures(pipeline, batch, &mut console)?;
        console.finish();
        for (row, &index) in batch.iter().enumerate() {
            let settings = prepared.settings(index);
            self.write(index, &pictures[row], &latents[row], &settings)?;
            let named = |file: &PathBuf| self.numbered(file, index);
            let dump = self.save.dump.as_ref().map(named);
            console.write_dump(dump.as_deref(), row, self.save.write.existing())?;
            let facts = Value::Object(settings.facts());
            console.result(&named(&self.output()), row, facts)?;
        }
        Ok(())
    }

    /// Writes a picture, and its latent if requested.
    fn write(
        &self,
        index: usize,
        picture: &Picture,
        latent: &Tensor,
        settings: &Settings,
    ) -> Result<()> {
        let existing = self.save.write.existing();
        let settings = (!self.save.no_metadata).then_some(settings);
        let file = self.numbered(&self.output(), index);
        picture::write(picture, &file, settings, existing)?;
        if let Some(file) = &self.save_latents {
            let file = self.numbered(file, index);
            let latents = vec![("latent".into(), latent.clone())];
            write_tensors(&file, &latents, HashMap::new(), existing)?;
        }
        Ok(())
    }
}

/// A generation that was checked against its model: pictures with seeds in order.
pub(crate) struct Prepared {
    generate: Generate,
    prompt: Prompt,
    /// The size of the pictures.
    pub(crate) size: Size,
    latent: Size,
    /// The seed of the first.
    seed: u64,
    /// The number of pictures.
    pub(crate) count: usize,
    settings: Settings,
}

impl Prepared {
    /// The latents and the pictures with these indices.
    pub(crate) fn pictures(
        &self,
        pipeline: &Pipeline,
        indices: &[usize],
        console: &mut Console,
    ) -> Result<(Vec<Tensor>, Vec<Picture>)> {
        let noises = indices.iter().map(|&index| self.noise(pipeline, index));
        let noises: Vec<_> = noises.collect::<icd::Result<_>>()?;
        let latents = pipeline.generate_by(&self.generate, &noises, console)?;
        let pictures = pipeline.decode(&Tensor::cat(&latents, 0)?, console)?;
        Ok((latents, pictures))
    }

    /// What the networks have to do.
    pub(crate) fn workload(&self, model: &Model) -> Result<Workload> {
        let Generate {
            method, guidance, ..
        } = &self.generate;
        let each = method.evaluations(model, *guidance)?;
        Ok(Workload {
            latent: self.latent,
            evaluations: vec![1; each * self.count],
            encoded: 0,
            decoded: self.count,
        })
    }

    /// The settings that repeat one of the pictures.
    pub(crate) fn settings(&self, index: usize) -> Settings {
        let settings = self.settings.clone();
        settings.with("seed", self.seed_of(index)).with("count", 1)
    }

    fn seed_of(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }

    /// The noise (1, 4, h, w) of one of the pictures.
    fn noise(&self, pipeline: &Pipeline, index: usize) -> icd::Result<Tensor> {
        let model = pipeline.model();
        let Size { width, height } = self.latent;
        let shape = (1, model.unet_config().in_channels, height, width);
        Noise::new(self.seed_of(index)).normal(shape, model.device())
    }
}
