//! `icd invert`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;
use icd::{
    edit::{Moment, generate},
    guidance::Guidance,
    latents::Latents,
};
use serde_json::json;

use super::{
    Console, ReportArgs,
    inversion::Inversion,
    model::ModelArgs,
    output::{self, WriteArgs},
    picture::{self, SizeArgs},
    prompts::tell_unread,
};

/// Carries a picture into noise, for several edits later.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InvertArgs {
    /// The picture (- for stdin): PNG, JPEG or WebP, told by its content.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// What the picture shows.
    #[arg(long)]
    prompt: String,
    /// The inverted latent [default: IN.latents.safetensors].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of the noise; the same seed gives the reference's noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Walk back unguided into this picture, and tell how near it comes.
    #[arg(long, value_name = "FILE")]
    reconstruct: Option<PathBuf>,
    /// Every intermediate value, as safetensors.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Keep inversions in this folder, and take them from there.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd invert --image in.png --prompt \"a photo of a bird\" --reconstruct back.png
  icd edit --latents in.latents.safetensors --tgt-prompt \"a photo of a lego bird\"";

impl InvertArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut console = Console::new(self.report, self.dump.as_deref());
        let output = self.checked_output()?;
        let photo = picture::read(&self.image)?;
        let model = self.model.open(&console)?;
        tell_unread(&[model.tokenizers()?.read(&self.prompt)?], &console);
        let canvas = self.size.canvas(&model)?;
        let inversion = Inversion {
            model: &model,
            photo: &photo,
            placed: canvas.place(&photo),
            canvas,
            prompt: &self.prompt,
            seed: self.seed,
        };
        let latents = inversion.cached(self.cache.as_ref(), &mut console)?;
        latents.write(&output)?;
        let mut facts = json!({ "prompt": self.prompt, "seed": self.seed });
        if let Some(file) = &self.reconstruct {
            let likeness = self.reconstructed(&inversion, &latents, file, &mut console)?;
            console.note(&format!("reconstruction: {likeness}"));
            facts["psnr"] = json!(likeness.psnr);
            facts["ssim"] = json!(likeness.ssim);
        }
        console.finish()?;
        console.result(&output, facts)
    }

    fn checked_output(&self) -> Result<PathBuf> {
        let name = || output::beside_name(&self.image, "latents", ".safetensors");
        let file = self.output.clone().unwrap_or_else(name);
        if let Some(picture) = &self.reconstruct {
            output::format(picture)?;
        }
        let files = [Some(&file), self.reconstruct.as_ref(), self.dump.as_ref()];
        let files = files.into_iter().flatten();
        files
            .clone()
            .try_for_each(|file| output::refuse_stdout(file))?;
        self.write.check(files)?;
        Ok(file)
    }

    /// Walks back unguided under the same prompt, and compares.
    fn reconstructed(
        &self,
        inversion: &Inversion,
        latents: &Latents,
        file: &Path,
        console: &mut Console,
    ) -> Result<Likeness> {
        let model = inversion.model;
        let noise = latents.latent.to_device(model.device())?;
        let guidance = Guidance::NONE;
        let mut see = |moment: Moment| console.see(moment);
        let latent = generate(model, &self.prompt, &noise, guidance, &mut see)?;
        let result = picture::decoded(&model.vae()?, &latent, console)?;
        let result = result.with_profile_of(inversion.photo);
        picture::write(&result, file, None)?;
        let placed = &inversion.placed;
        Ok(Likeness {
            psnr: result.psnr(placed)?,
            ssim: result.ssim(placed).ok(), // none for pictures below its window
        })
    }
}

/// How near a reconstruction comes to its picture.
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
