//! `icd invert`.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Result;
use clap::Args;
use icd::{edit::invert, latents::Latents, model::Model, picture::fit::Canvas};
use serde_json::json;

use super::{Console, ReportArgs, model::ModelArgs, picture, picture::SizeArgs};

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
    /// Every intermediate value, as safetensors.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd invert --image in.png --prompt \"a photo of a bird\"
  icd edit --latents in.latents.safetensors --tgt-prompt \"a photo of a lego bird\"";

impl InvertArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut console = Console::new(self.report, self.dump.as_deref());
        let photo = picture::read(&self.image)?;
        let model = self.model.open(&console)?;
        let canvas = self.size.canvas(&model)?;
        let picture = canvas.place(&photo).to_tensor(model.device())?;
        let latent = invert(&model, &picture, &self.prompt, self.seed, &mut |moment| {
            console.see(moment);
        })?;
        let name = || picture::beside_name(&self.image, "latents", ".safetensors");
        let output = self.output.clone().unwrap_or_else(name);
        let latents = Latents {
            latent,
            prompt: self.prompt.clone(),
            model: model.identity()?,
            notes: self.notes(&model, canvas)?,
        };
        latents.write(&output)?;
        console.finish()?;
        console.result(&output, json!({ "prompt": self.prompt, "seed": self.seed }));
        Ok(())
    }

    fn notes(&self, model: &Model, canvas: Canvas) -> Result<HashMap<String, String>> {
        let notes = [
            ("seed", self.seed.to_string()),
            ("forward_path", model.forward_path()?.to_string()),
            ("size", canvas.size.to_string()),
            ("fit", format!("{:?}", canvas.fit).to_lowercase()),
            ("version", env!("CARGO_PKG_VERSION").to_string()),
        ];
        Ok(notes
            .into_iter()
            .map(|(key, value)| (key.to_string(), value))
            .collect())
    }
}
