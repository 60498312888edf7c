//! `icd invert`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;
use icd::{
    guidance::Tau,
    model::{MethodName, Model},
    picture::{Picture, Size},
    pipeline::{Invert, Latents, Pipeline, Workload},
};
use serde_json::json;

use crate::cli::{
    Console, ReportArgs,
    args::{
        method::{GivenGuidance, MethodArgs},
        model::ModelArgs,
        output::{self, WriteArgs},
        size::SizeArgs,
        values::Seed,
    },
    canvas::Placed,
    inversion::Inversion,
    picture,
    ui::{prompts::warn_of_prompts, warnings::warn_of_size},
};

/// Inverts a picture and writes the latent that later edits start from.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InvertArgs {
    /// The picture (- for stdin): PNG, JPEG, WebP, GIF or BMP, recognised by its content.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: PathBuf,
    /// What the picture shows.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// The inverted latent [default: IN.latents.safetensors].
    #[arg(long, short, value_name = "FILE", value_parser = output::tensors())]
    pub(crate) output: Option<PathBuf>,
    /// Seed of the noise, which is that of PyTorch's CPU generator; random: another one each
    /// time, which is told.
    #[arg(
        long,
        value_name = "N|random",
        default_value = "0",
        allow_negative_numbers = true
    )]
    pub(crate) seed: Seed,
    /// Reconstruct the picture without guidance (nti: with the guidance that it is for) into
    /// this file, and print PSNR and SSIM.
    #[arg(long, value_name = "FILE", value_parser = output::picture_file())]
    reconstruct: Option<PathBuf>,
    /// Every intermediate value, as safetensors.
    #[arg(long, value_name = "FILE", value_parser = output::tensors())]
    dump: Option<PathBuf>,
    /// Keep inversions in this folder and reuse them.
    #[arg(long, env = "ICD_CACHE", hide_env_values = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// The guidance scale that the embeddings of --method nti are optimised for [default: 7.5].
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// The fraction of the timesteps above which that guidance is off [default: 1].
    #[arg(long, allow_negative_numbers = true)]
    tau: Option<Tau>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd invert --image in.png --prompt \"a photo of a bird\" \\
      --reconstruct back.png
  icd invert --image in.png --prompt \"a photo of a bird\" --method ddim \\
      --steps 20 -o ddim.safetensors
  icd edit --latents in.latents.safetensors \\
      --tgt-prompt \"a photo of a lego bird\"";

impl InvertArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let mut console = Console::new(self.report, self.dump.is_some());
        let output = self.checked_output()?;
        let photo = picture::read(&self.image, &console)?;
        let pipeline = self.model.open(&console)?;
        let placed = self.placed(&photo, pipeline.model(), &console)?;
        let inversion = self.inversion(&pipeline, &placed, &console)?;
        self.warn_of_guidance(&inversion.invert, &console);
        let latents = inversion.cached(self.cache.as_ref(), &mut console)?;
        latents.write(&output, self.write.existing())?;
        let mut facts = json!({ "prompt": self.prompt, "seed": inversion.invert.seed });
        if let Some(steps) = inversion.invert.method.steps() {
            facts["method"] = json!(inversion.invert.method.name());
            facts["steps"] = json!(steps.count());
        }
        if let Some(file) = &self.reconstruct {
            let likeness = self.reconstructed(&inversion, &latents, file, &mut console)?;
            console.note(&format!("reconstruction: {likeness}"));
            facts["psnr"] = json!(likeness.psnr);
            facts["ssim"] = json!(likeness.ssim);
        }
        console.write_dump(self.dump.as_deref(), 0, self.write.existing())?;
        console.finish();
        console.result(&output, 0, facts)
    }

    /// The picture at the size of the work; checks it and the prompt against the model.
    pub(crate) fn placed<'a>(
        &self,
        photo: &'a Picture,
        model: &Model,
        console: &Console,
    ) -> Result<Placed<'a>> {
        let prompt = model.tokenizers()?.tokenize(&self.prompt)?;
        warn_of_prompts(model, &[prompt], console)?;
        let placed = Placed::new(photo, self.size.canvas(model)?);
        model.latent_size(placed.picture.size())?;
        warn_of_size(model, placed.picture.size(), console)?;
        Ok(placed)
    }

    /// The inversion of a picture that was placed.
    pub(crate) fn inversion<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        placed: &'a Placed<'a>,
        console: &Console,
    ) -> Result<Inversion<'a>> {
        Ok(Inversion {
            pipeline,
            placed,
            invert: self.invert(pipeline.model(), self.seed.told(console))?,
        })
    }

    /// The settings of the inversion.
    pub(crate) fn invert(&self, model: &Model, seed: u64) -> icd::Result<Invert> {
        let given = GivenGuidance {
            strength: self.guidance,
            tau: self.tau,
        };
        Ok(Invert {
            prompt: self.prompt.clone(),
            seed,
            method: self.method.chosen(model, given, None)?.method,
        })
    }

    /// What the networks have to do for a picture of this size.
    pub(crate) fn workload(&self, model: &Model, size: Size) -> icd::Result<Workload> {
        let method = self.invert(model, 0)?.method;
        Ok(Workload {
            latent: model.latent_size(size)?,
            evaluations: method.inversion_evaluations(model)?,
            encoded: 1,
            decoded: 0,
        })
    }

    /// Warns about guidance that no embedding is optimised for.
    fn warn_of_guidance(&self, invert: &Invert, console: &Console) {
        let is_given = self.guidance.is_some() || self.tau.is_some();
        if is_given && invert.method.kind() != MethodName::Nti {
            console.warn("--guidance, --tau: inversions are unguided; they are for --method nti");
        }
    }

    fn checked_output(&self) -> Result<PathBuf> {
        let name = || output::beside_name(&self.image, "latents", ".safetensors");
        let file = self.output.clone().unwrap_or_else(name);
        let files = [Some(&file), self.reconstruct.as_ref(), self.dump.as_ref()];
        self.write.check(files.into_iter().flatten())?;
        let outputs = files.into_iter().flatten();
        output::check_inputs(outputs.clone(), [&self.image], &self.model.inputs())?;
        output::check_distinct(outputs.clone())?;
        output::check_folders(&self.cache, outputs)?;
        Ok(file)
    }

    /// Reconstructs the picture without guidance under the same prompt, and compares.
    fn reconstructed(
        &self,
        inversion: &Inversion,
        latents: &Latents,
        file: &Path,
        console: &mut Console,
    ) -> Result<Likeness> {
        let pipeline = inversion.pipeline;
        let inverted = latents.inverted.to_device(pipeline.model().device())?;
        let latent = pipeline.reconstruct_by(&inverted, &inversion.invert, console)?;
        let result = pipeline.decode(&latent, console)?.swap_remove(0);
        let result = result.with_profile_of(inversion.placed.photo);
        picture::write(&result, file, None, self.write.existing())?;
        let placed = &inversion.placed.picture;
        Ok(Likeness {
            psnr: result.psnr(placed)?,
            ssim: result.ssim(placed).ok(), // None for pictures smaller than its window
        })
    }
}

/// The similarity of a reconstruction to its picture.
struct Likeness {
    psnr: f64,
    ssim: Option<f64>,
}

impl fmt::Display for Likeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PSNR {:.2} dB", self.psnr)?;
        match self.ssim {
            Some(ssim) => write!(f, ", SSIM {ssim:.4}"),
            None => Ok(()),
        }
    }
}
