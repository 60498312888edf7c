//! `icd edit`.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Result, bail};
use candle_core::Tensor;
use clap::{Args, ValueEnum};
use icd::{
    Error,
    edit::{Amplify, Blend, ControlPlan, Edit, Edited, Mode, Moment, Reach, Span, edit, invert},
    guidance::{Guidance, Tau},
    latents::{Latents, write_tensors},
    model::Model,
    picture::Picture,
};
use serde_json::json;

use super::{
    Console, ReportArgs,
    model::ModelArgs,
    picture::{self, SizeArgs},
    settings::Settings,
    values::{AmplifyValue, BlendValue, CrossReplace, EarlyPrompt},
};

/// Edits a picture: what is there, what should be there.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EditArgs {
    /// The picture (- for stdin): PNG, JPEG or WebP, told by its content.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["latents", "from"])]
    image: Option<PathBuf>,
    /// The dump of `icd invert` in place of a picture.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    latents: Option<PathBuf>,
    /// What the picture shows [default with --latents: as it was inverted].
    #[arg(long, required_unless_present_any = ["latents", "from"])]
    src_prompt: Option<String>,
    /// What it should show; repeat it for several edits of one inversion.
    #[arg(long, required_unless_present = "from")]
    tgt_prompt: Vec<String>,
    /// Edit as for this PNG, which carries its settings; any flag overrides its own.
    #[arg(long, value_name = "PNG")]
    from: Option<PathBuf>,
    /// The edited picture; several get -1, -2, .. [default: IN.edited.png].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of the noise; the same seed gives the reference's noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The final latents (source row left out), as safetensors.
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,
    /// Every intermediate value, as safetensors.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Leave the settings out of the PNG.
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd edit --image in.png --src-prompt \"a photo of a bird\" --tgt-prompt \"a photo of a lego bird\"
  icd edit --image in.png --src-prompt \"a cat on a sofa\" --tgt-prompt \"a dog on a sofa\" \\
      --blend cat:dog --amplify dog=3 -o dog.png
  icd edit --from dog.png --amplify dog=5 -o dog-stronger.png";

/// What holds the edit to the picture, and how far it goes.
#[derive(Args)]
#[command(next_help_heading = "Strength and control")]
struct ControlArgs {
    /// How strongly the target prompt is followed [default: 19 for SD1.5,
    /// 7 for SDXL, or as the model's icd.toml says].
    #[arg(long)]
    guidance: Option<f64>,
    /// Guidance ends here on the way from clean (0) to noise (1); a lower tau
    /// keeps more of the picture; 0.7..0.9 is a ramp [default: 0.8 or 0.7, as
    /// suits the reverse adapter's path].
    #[arg(long)]
    tau: Option<Tau>,
    /// How attention to words follows the source.
    #[arg(long, default_value = "auto")]
    control: ModeValue,
    /// The share of the steps in which it does; word=SHARE or word=FROM..TO for
    /// one word [default: 0.3].
    #[arg(long, value_name = "SHARE")]
    cross_replace: Vec<CrossReplace>,
    /// The share of the steps in which the layout is the source's.
    #[arg(long, value_name = "SHARE", default_value = "0.6")]
    self_replace: Span,
    /// Multiply the attention to a target word; auto: each new word by 4 [default: auto].
    #[arg(long, value_name = "WORD=FACTOR|auto|none")]
    amplify: Vec<AmplifyValue>,
    /// Change the picture only where these words are, source:target.
    #[arg(long, value_name = "SRC:TGT|auto")]
    blend: Vec<BlendValue>,
    /// The prompt until guidance is full; SDXL's default is source where no
    /// control is asked for.
    #[arg(long, value_name = "source|target|TEXT")]
    early_prompt: Option<EarlyPrompt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeValue {
    /// Replace where the word counts agree, else refine; none on SDXL.
    Auto,
    /// Word for word.
    Replace,
    /// Along the words that both prompts have.
    Refine,
    /// Not at all.
    None,
}

impl EditArgs {
    pub(super) fn run(&self, settings: Settings) -> Result<()> {
        let mut console = Console::new(self.report, self.dump.as_deref());
        picture::check_output(&self.output())?;
        let photo = self.image.as_deref().map(picture::read).transpose()?;
        let model = self.model.open(&console)?;
        let dumped = self.latents.as_deref().map(Latents::read).transpose()?;
        let request = self.request(&model, dumped.as_ref())?;
        check_words(&model, &request)?;
        let inverted = self.inverted(&model, photo, dumped, &mut |moment| console.see(moment))?;
        let edited = edit(&model, &inverted, &request, &mut |moment| {
            console.see(moment);
        })?;
        let outputs = self.write(&model, &edited, settings, &mut console)?;
        console.finish()?;
        for (output, prompt) in outputs.iter().zip(&request.targets) {
            console.result(
                output,
                json!({ "source": request.source, "target": prompt, "seed": self.seed }),
            );
        }
        Ok(())
    }

    fn output(&self) -> PathBuf {
        let input = self.image.as_ref().or(self.latents.as_ref());
        let named_after = |input: &PathBuf| picture::beside_name(input, "edited", ".png");
        let given = self.output.clone();
        given.or_else(|| input.map(named_after)).unwrap_or_default()
    }

    fn request(&self, model: &Model, dumped: Option<&Latents>) -> Result<Edit> {
        let source = self
            .src_prompt
            .clone()
            .or_else(|| dumped.map(|latents| latents.prompt.clone()));
        let source = source.unwrap_or_default();
        let control = self.control.plan(model);
        let tau = match self.control.tau {
            Some(tau) => tau,
            None => Tau::usual_for(&model.reverse_path()?),
        };
        let strength = self.control.guidance.unwrap_or(model.edit_guidance());
        Ok(Edit {
            early_prompt: self.control.early_prompt(model, &source),
            source,
            targets: self.tgt_prompt.clone(),
            guidance: Guidance::new(strength, tau)?,
            control,
            keep_source: self.dump.is_some(),
        })
    }

    fn inverted(
        &self,
        model: &Model,
        photo: Option<Picture>,
        dumped: Option<Latents>,
        watch: &mut dyn FnMut(Moment),
    ) -> Result<Tensor> {
        match (photo, dumped) {
            (Some(photo), _) => {
                let picture = self
                    .size
                    .canvas(model)?
                    .place(&photo)
                    .to_tensor(model.device())?;
                let source = self.src_prompt.as_deref().unwrap_or_default();
                Ok(invert(model, &picture, source, self.seed, watch)?)
            }
            (None, Some(dumped)) => self.fitting(model, dumped),
            (None, None) => bail!("neither a picture nor latents were given"),
        }
    }

    fn fitting(&self, model: &Model, dumped: Latents) -> Result<Tensor> {
        let identity = model.identity()?;
        if !dumped.model.is_empty() && dumped.model != identity {
            let file = self.latents.clone().unwrap_or_default();
            let reason = format!(
                "they were inverted by another model ({}, here {identity})",
                dumped.model
            );
            return Err(Error::weights(file, reason).into());
        }
        let (found, wanted) = (dumped.latent.dim(1)?, model.unet_config().latent_channels);
        if found != wanted {
            let file = self.latents.clone().unwrap_or_default();
            let reason = format!("its latent has {found} channels, the model wants {wanted}");
            return Err(Error::weights(file, reason).into());
        }
        Ok(dumped.latent.to_device(model.device())?)
    }

    fn write(
        &self,
        model: &Model,
        edited: &Edited,
        settings: Settings,
        console: &mut Console,
    ) -> Result<Vec<PathBuf>> {
        if let Some(file) = &self.save_latents {
            write_tensors(
                file,
                &vec![("latent".into(), edited.targets.clone())],
                HashMap::new(),
            )?;
        }
        console.see(Moment::Begins("decoding"));
        let vae = model.vae()?;
        let count = self.tgt_prompt.len();
        let output = self.output();
        let write = |index: usize| -> Result<PathBuf> {
            let file = picture::numbered(&output, index + 1, count);
            let decoded = vae.decode(&edited.targets.narrow(0, index, 1)?)?;
            let own = settings
                .clone()
                .with("tgt_prompt", [self.tgt_prompt[index].as_str()]);
            let carried = (!self.no_metadata).then_some(&own);
            picture::write(&Picture::from_tensor(&decoded)?, &file, carried)?;
            Ok(file)
        };
        (0..count).map(write).collect()
    }
}

/// Finds unknown words before minutes are spent on networks.
fn check_words(model: &Model, request: &Edit) -> Result<()> {
    let tokenizers = model.tokenizers()?;
    let prompts = request.prompts().map(|prompt| tokenizers.read(prompt));
    let prompts = prompts.collect::<icd::Result<Vec<_>>>()?;
    let walk = request.walk(model, &model.reverse_path()?);
    request.control.control(&prompts, &walk)?;
    Ok(())
}

impl ControlArgs {
    fn plan(&self, model: &Model) -> ControlPlan {
        let mode = match self.control {
            ModeValue::Auto if !model.family().edits_by_attention() => Mode::None,
            ModeValue::Auto => Mode::Auto,
            ModeValue::Replace => Mode::Replace,
            ModeValue::Refine => Mode::Refine,
            ModeValue::None => Mode::None,
        };
        ControlPlan {
            mode,
            cross: self.cross(),
            itself: self.self_replace,
            amplify: self.amplify(),
            blend: self.blend(),
        }
    }

    fn cross(&self) -> Reach {
        let mut reach = Reach {
            default: Span::CROSS,
            words: Vec::new(),
        };
        for value in &self.cross_replace {
            match value {
                CrossReplace::All(span) => reach.default = *span,
                CrossReplace::Word(word, span) => reach.words.push((word.clone(), *span)),
            }
        }
        reach
    }

    fn amplify(&self) -> Amplify {
        let word = |value: &AmplifyValue| match value {
            AmplifyValue::Word(word, factor) => Some((word.clone(), *factor)),
            AmplifyValue::Auto | AmplifyValue::None => None,
        };
        let auto =
            self.amplify.is_empty() || self.amplify.iter().any(|v| matches!(v, AmplifyValue::Auto));
        match auto {
            true => Amplify::Auto,
            false => Amplify::Words(self.amplify.iter().filter_map(word).collect()),
        }
    }

    fn blend(&self) -> Blend {
        let pair = |value: &BlendValue| match value {
            BlendValue::Pair(source, target) => Some((source.clone(), target.clone())),
            BlendValue::Auto => None,
        };
        match self
            .blend
            .iter()
            .any(|value| matches!(value, BlendValue::Auto))
        {
            true => Blend::Auto,
            false => Blend::Words(self.blend.iter().filter_map(pair).collect()),
        }
    }

    /// The early prompt of the targets: as asked, else the source where the
    /// family keeps it that way.
    fn early_prompt(&self, model: &Model, source: &str) -> Option<String> {
        let by_default = self.control == ModeValue::Auto && !model.family().edits_by_attention();
        match &self.early_prompt {
            Some(EarlyPrompt::Source) => Some(source.into()),
            Some(EarlyPrompt::Text(text)) => Some(text.clone()),
            None if by_default => Some(source.into()),
            Some(EarlyPrompt::Target) | None => None,
        }
    }
}
