//! `icd edit`.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use clap::Args;
use icd::{
    Error,
    edit::{Edit, Edited, Extras, Moment, edit},
    latents::{Latents, write_tensors},
    model::Model,
};
use serde_json::json;

use super::{
    Console, ReportArgs,
    control::ControlArgs,
    dry_run,
    frame::{Frame, Input},
    inversion::Inversion,
    model::ModelArgs,
    output::{self, WriteArgs, beside_name, is_stdout, numbered},
    picture::{self, SizeArgs},
    prompts::tell_unread,
    settings::Settings,
    show::{self, Shown},
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
    /// The edited picture (- for stdout); several get -1, -2, .. [default: IN.edited.png].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of the noise; the same seed gives the reference's noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tell what would be done: tokens, words, evaluations, memory; load no weights.
    #[arg(long)]
    dry_run: bool,
    /// Keep inversions in this folder, and take them from there.
    #[arg(long, value_name = "DIR", conflicts_with = "latents")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    also: AlsoArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// What is written, and how.
#[derive(Args)]
#[command(next_help_heading = "Files")]
struct AlsoArgs {
    /// White where the edit may act: a picture of any size, scaled to the photo.
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Scale the result back to the photo's size.
    #[arg(long)]
    restore_size: bool,
    /// Source, reconstruction and edits side by side, with captions.
    #[arg(long, value_name = "FILE")]
    comparison: Option<PathBuf>,
    /// Where each word looks, as heat maps: source.png, target.png.
    #[arg(long, value_name = "DIR")]
    attention: Option<PathBuf>,
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
    write: WriteArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd edit --image in.png --src-prompt \"a photo of a bird\" --tgt-prompt \"a photo of a lego bird\"
  icd edit --image in.png --src-prompt \"a cat on a sofa\" --tgt-prompt \"a dog on a sofa\" \\
      --blend cat:dog --amplify dog=3 --comparison compared.png -o dog.png
  icd edit --from dog.png --amplify dog=5 -o dog-stronger.png";

/// Tells where the way back does not begin where the way into noise ends.
fn tell_ends(model: &Model, console: &Console) -> Result<()> {
    let (end, start) = (model.forward_path()?.end(), model.reverse_path()?.start());
    if end != start {
        console.note(&format!(
            "the forward path ends at {}, and the reverse one begins at {}: the picture suffers",
            end.0, start.0
        ));
    }
    Ok(())
}

impl EditArgs {
    pub(super) fn run(&self, settings: Settings) -> Result<()> {
        let mut console = Console::new(self.report, self.also.dump.as_deref());
        let outputs = self.checked_outputs()?;
        let input = self.read()?;
        let model = self.model.open(&console)?;
        let frame = Frame::of(&input, self.size, &model)?;
        if self.also.restore_size {
            frame.check_restorable()?;
        }
        let request = self.request(&model, &input, &frame)?;
        let prompts = request.read_prompts(&model)?;
        let rows = request.rows_evaluated(&model, &prompts)?; // unknown words end here
        tell_unread(&prompts, &console);
        if frame.is_photo() {
            tell_ends(&model, &console)?;
        }
        if self.dry_run {
            console.clear();
            return dry_run::tell_edit(
                &model,
                &request,
                &prompts,
                (&frame, rows),
                self.report.json,
            );
        }
        let inverted = self.inverted(&model, &input, &frame, &mut console)?;
        let edited = edit(&model, &inverted, &request, &mut |moment| {
            console.see(moment);
        })?;
        self.write(&model, &edited, (&frame, &outputs), settings, &mut console)?;
        console.finish()?;
        for (output, prompt) in outputs.iter().zip(&request.targets) {
            console.result(
                output,
                json!({ "source": request.source, "target": prompt, "seed": self.seed }),
            )?;
        }
        Ok(())
    }

    /// The names of the edited pictures. All files of the run can be written.
    fn checked_outputs(&self) -> Result<Vec<PathBuf>> {
        let (output, count) = (self.output(), self.tgt_prompt.len());
        if is_stdout(&output) && (count > 1 || self.report.json) {
            let reason = "-o - holds one picture and nothing else: one --tgt-prompt, and no --json";
            return Err(Error::setting(reason).into());
        }
        output::format(&output)?;
        let outputs: Vec<_> = (1..=count).map(|i| numbered(&output, i, count)).collect();
        let also = &self.also;
        if let Some(comparison) = &also.comparison {
            output::format(comparison)?;
        }
        let sheets = also
            .attention
            .iter()
            .flat_map(|folder| show::sheets(folder, count));
        let sheets: Vec<_> = sheets.collect();
        let beside = [&also.comparison, &also.save_latents, &also.dump];
        let beside = beside.into_iter().flatten();
        beside
            .clone()
            .try_for_each(|file| output::refuse_stdout(file))?;
        if !self.dry_run {
            also.write.check(outputs.iter().chain(beside))?;
            also.attention
                .iter()
                .try_for_each(|folder| output::check_folder(folder))?;
            also.write.check_new(&sheets)?;
        }
        Ok(outputs)
    }

    fn output(&self) -> PathBuf {
        let input = self.image.as_ref().or(self.latents.as_ref());
        let named_after = |input: &PathBuf| beside_name(input, "edited", ".png");
        let given = self.output.clone();
        given.or_else(|| input.map(named_after)).unwrap_or_default()
    }

    /// What is edited, read before a model is opened.
    fn read(&self) -> Result<Input> {
        match (&self.image, &self.latents) {
            (Some(image), _) => Ok(Input::Photo(picture::read(image)?)),
            (None, Some(dump)) => Ok(Input::Dump(dump.clone(), Latents::read(dump)?)),
            (None, None) => bail!("neither a picture nor latents were given"),
        }
    }

    fn request(&self, model: &Model, input: &Input, frame: &Frame) -> Result<Edit> {
        let source = match (&self.src_prompt, input) {
            (Some(prompt), _) => prompt.clone(),
            (None, Input::Dump(_, latents)) => latents.prompt.clone(),
            (None, Input::Photo(_)) => String::new(),
        };
        let request = self.control.edit(model, source, self.tgt_prompt.clone())?;
        let also = &self.also;
        let mask = also.mask.as_deref().map(picture::read).transpose()?;
        let mask = mask.map(|mask| frame.latent_mask(&mask, model.device()));
        let looks = also.attention.is_some();
        let source = looks || also.dump.is_some() || also.comparison.is_some();
        Ok(Edit {
            mask: mask.transpose()?,
            extras: Extras { source, looks },
            ..request
        })
    }

    fn inverted(
        &self,
        model: &Model,
        input: &Input,
        frame: &Frame,
        console: &mut Console,
    ) -> Result<Tensor> {
        let latents = match input {
            Input::Photo(photo) => {
                let inversion = Inversion {
                    model,
                    photo,
                    placed: frame.placed().cloned().context("a photo is placed")?,
                    canvas: self.size.canvas(model)?,
                    prompt: self.src_prompt.as_deref().unwrap_or_default(),
                    seed: self.seed,
                };
                inversion.cached(self.cache.as_ref(), console)?
            }
            Input::Dump(file, latents) => {
                latents.check_origin(file, model)?;
                latents.clone()
            }
        };
        Ok(latents.latent.to_device(model.device())?)
    }

    fn write(
        &self,
        model: &Model,
        edited: &Edited,
        (frame, outputs): (&Frame, &[PathBuf]),
        settings: Settings,
        console: &mut Console,
    ) -> Result<()> {
        if let Some(file) = &self.also.save_latents {
            let latents = vec![("latent".into(), edited.targets.clone())];
            write_tensors(file, &latents, HashMap::new())?;
        }
        console.see(Moment::Begins("decoding"));
        let vae = model.vae()?;
        let decode = |latent: &Tensor| picture::decoded(&vae, latent, console);
        let targets = (0..outputs.len()).map(|i| decode(&edited.targets.narrow(0, i, 1)?));
        let targets: Vec<_> = targets.collect::<icd::Result<_>>()?;
        for ((file, target), prompt) in outputs.iter().zip(&targets).zip(&self.tgt_prompt) {
            let result = frame.finished(target, self.also.restore_size);
            let own = settings.clone().with("tgt_prompt", [prompt.as_str()]);
            picture::write(&result, file, (!self.also.no_metadata).then_some(&own))?;
        }
        let shown = Shown {
            edited,
            photo: frame.placed().cloned(),
            source: edited.source.as_ref().map(decode).transpose()?,
            targets,
        };
        if let Some(file) = &self.also.comparison {
            picture::write(&shown.comparison()?, file, None)?;
        }
        match &self.also.attention {
            Some(folder) => shown.write_looks(folder),
            None => Ok(()),
        }
    }
}
