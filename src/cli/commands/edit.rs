//! `icd edit`.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use clap::Args;
use icd::{
    Error,
    io::write_tensors,
    model::Model,
    picture::Picture,
    pipeline::{Edit, Edited, Latents, Outputs, Pipeline, Workload},
};
use serde_json::{Value, json};

use crate::cli::{
    Console, ReportArgs,
    args::{
        control::ControlArgs,
        model::ModelArgs,
        output::{self, beside_name, is_stdout, numbered},
        result::ResultArgs,
        size::SizeArgs,
        values::Seed,
    },
    canvas::{Frame, Input, ResultSize},
    inversion::Inversion,
    keep::{Finish, Keeping},
    picture,
    settings::{InputHash, Settings},
    ui::{
        dry_run::{self, Work},
        prompts::warn_of_edit,
        sheets::{self, Shown},
        warnings::{warn_of_factors, warn_of_guidance, warn_of_other_model, warn_of_size},
    },
};

/// Edits a picture, given a prompt that describes it and one for the result.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EditArgs {
    /// The picture (- for stdin): PNG, JPEG, WebP, GIF or BMP, recognised by its content.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["latents", "from"])]
    image: Option<PathBuf>,
    /// The latents that `icd invert` wrote, in place of a picture.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    latents: Option<PathBuf>,
    /// What the picture shows [default with --latents: the prompt of the inversion].
    #[arg(long, allow_hyphen_values = true)]
    #[arg(required_unless_present_any = ["latents", "from"])]
    src_prompt: Option<String>,
    /// What it should show; repeat it for several edits of one inversion.
    #[arg(long, required_unless_present = "from", allow_hyphen_values = true)]
    tgt_prompt: Vec<String>,
    /// Reuse the prompts, picture and settings in a picture that `icd edit` wrote; flags
    /// override them.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The edited picture (- for stdout); several get -1, -2, .. [default: IN.edited.png].
    #[arg(long, short, value_name = "FILE", value_parser = output::picture())]
    output: Option<PathBuf>,
    /// Seed of the noise, which is that of PyTorch's CPU generator; random: another one each
    /// time, which is told.
    #[arg(
        long,
        value_name = "N|random",
        default_value = "0",
        allow_negative_numbers = true
    )]
    seed: Seed,
    /// Print what would be done (tokens, words, evaluations, memory); load no weights.
    #[arg(long)]
    dry_run: bool,
    /// Keep inversions in this folder and reuse them.
    #[arg(long, env = "ICD_CACHE", hide_env_values = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Most rows (the source and targets) of one network evaluation, more are evaluated in
    /// groups: less memory for many --tgt-prompt, the same results [default: 8].
    #[arg(long, value_name = "N")]
    max_rows: Option<NonZeroUsize>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    result: ResultArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd edit --image in.png --src-prompt \"a photo of a bird\" \\
      --tgt-prompt \"a photo of a lego bird\"
  icd edit --image in.png --src-prompt \"a cat on a sofa\" \\
      --tgt-prompt \"a dog on a sofa\" --blend cat:dog --amplify dog=3 \\
      --comparison compared.png -o dog.png
  icd edit --image in.png --src-prompt \"a cat on a sofa\" \\
      --tgt-prompt \"a dog on a sofa\" --mask mask.png -o masked.png
  icd edit --from dog.png --amplify dog=5 -o dog-stronger.png";

/// Warns if the reverse timesteps do not start where the forward ones end.
fn warn_of_gap(model: &Model, console: &Console) -> Result<()> {
    let (end, start) = (
        model.forward_timesteps()?.end(),
        model.reverse_timesteps()?.start(),
    );
    if end != start {
        console.warn(&format!(
            "forward timesteps end at {}, reverse timesteps start at {}: the picture will be worse",
            end.0, start.0
        ));
    }
    Ok(())
}

/// The rows of each evaluation.
fn evaluations(model: &Model, frame: &Frame, groups: &[usize]) -> Result<Vec<usize>> {
    let inversion = match frame.placed() {
        Some(_) => vec![1; model.forward_timesteps()?.count()],
        None => Vec::new(),
    };
    let steps = model.reverse_timesteps()?.count();
    let edit = groups.iter().flat_map(|&rows| vec![rows; steps]);
    Ok(inversion.into_iter().chain(edit).collect())
}

impl EditArgs {
    pub(crate) fn run(&self, settings: Settings) -> Result<()> {
        let dump = self.result.save.dump.as_deref();
        let mut console = Console::new(self.report, dump.is_some());
        let outputs = self.checked_outputs()?;
        let (input, hash) = self.read(&console)?;
        let settings = settings.of_input(hash, self.input())?;
        let mask = self.result.read_mask(&console)?;
        let pipeline = self.model.open(&console)?;
        let pipeline = match self.max_rows {
            Some(rows) => pipeline.with_max_rows(rows),
            None => pipeline,
        };
        let model = pipeline.model();
        let frame = Frame::of(&input, self.size, model)?;
        if self.result.restore_size {
            frame.check_restorable()?;
        }
        let request = self.request(model, &frame, mask.as_ref())?;
        let prompts = request.tokenize(model)?;
        let rows = pipeline.rows_evaluated(&request, &prompts)?; // fails on unknown words
        warn_of_edit(model, &prompts, &console)?;
        warn(model, (&frame, &request), &settings, &console)?;
        let seed = self.seed.told(&console);
        let finish = self.finish(&frame, &request, mask.as_ref(), &console);
        if self.dry_run {
            console.clear();
            let load = Workload {
                latent: frame.latent()?,
                evaluations: evaluations(model, &frame, &rows)?,
                encoded: usize::from(frame.placed().is_some()),
                decoded: request.targets.len() + usize::from(request.outputs.source),
            };
            let result = frame.result(model, finish.size)?;
            let work = Work::of(&pipeline, load, result)?;
            return dry_run::print_edit(model, &request, &prompts, &work, self.report.json);
        }
        let settings = settings.with("seed", seed);
        let of = |target| {
            settings
                .clone()
                .of_edit(model, &request, (&prompts[0], target))
        };
        let settings: Vec<_> = prompts[1..].iter().map(of).collect::<Result<_>>()?;
        let mut noted = outputs.iter().zip(&settings);
        noted.try_for_each(|(file, own)| self.result.save.check_settings(file, own))?;
        let inverted = self.inverted(&pipeline, (&frame, seed), &mut console)?;
        let edited = pipeline.edit(&inverted, &request, &mut console)?;
        let files = (&finish, &outputs[..]);
        self.write(&pipeline, &edited, files, &settings, &mut console)?;
        console.write_dump(dump, 0, self.result.save.write.existing())?;
        console.finish();
        let mut results = outputs.iter().zip(&request.targets).zip(settings);
        results.try_for_each(|((output, target), settings)| {
            let mut facts = Value::Object(settings.facts());
            facts["source"] = json!(request.source);
            facts["target"] = json!(target);
            console.result(output, 0, facts)
        })
    }

    /// The names of the edited pictures; checks that all output files can be written.
    fn checked_outputs(&self) -> Result<Vec<PathBuf>> {
        let (output, count) = (self.output(), self.tgt_prompt.len());
        let reason = "-o - writes one picture to stdout: use one --tgt-prompt and no --json";
        let is_alone = count == 1 && !self.report.json;
        ensure!(is_alone || !is_stdout(&output), Error::setting(reason));
        let outputs: Vec<_> = (1..=count).map(|i| numbered(&output, i, count)).collect();
        let result = &self.result;
        if !self.dry_run {
            let model = self.model.inputs();
            let beside = [&result.comparison, &result.save_latents, &result.save.dump];
            let write = result.save.write;
            write.check(outputs.iter().chain(beside.into_iter().flatten()))?;
            let inputs = [&self.image, &self.latents, &self.from, &result.mask];
            let sheets = result.attention_maps.as_deref();
            let sheets = sheets.map_or_else(Vec::new, |folder| sheets::files(folder, count));
            let beside = beside.into_iter().flatten().chain(&sheets);
            output::check_inputs(beside.clone(), inputs.into_iter().flatten(), &model)?;
            output::check_distinct(outputs.iter().chain(beside))?;
            if let Some(folder) = &result.attention_maps {
                output::check_folder(folder)?;
                write.check_new(&sheets)?;
            }
        }
        Ok(outputs)
    }

    fn output(&self) -> PathBuf {
        let named_after = |input: &Path| beside_name(input, "edited", ".png");
        let given = self.output.clone();
        given
            .or_else(|| self.input().map(named_after))
            .unwrap_or_default()
    }

    /// The file of the picture or of its latents.
    fn input(&self) -> Option<&Path> {
        self.image.as_deref().or(self.latents.as_deref())
    }

    /// Reads the input, before a model is opened, and hashes it.
    fn read(&self, console: &Console) -> Result<(Input, InputHash)> {
        match (&self.image, &self.latents) {
            (Some(image), _) => {
                let (photo, hash) = picture::read_hashed(image, console)?;
                Ok((Input::Photo(photo), hash))
            }
            (None, Some(dump)) => {
                let latents = Latents::read(dump)?;
                let hash = InputHash::of_latents(&latents)?;
                Ok((Input::Latents(dump.clone(), latents), hash))
            }
            (None, None) => bail!(Error::setting("no input: pass --image or --latents")),
        }
    }

    fn request(&self, model: &Model, frame: &Frame, mask: Option<&Picture>) -> Result<Edit> {
        let stated = match frame {
            Frame::Latents(latents, _) => Some(&latents.prompt),
            Frame::Photo(..) => None,
        };
        let prompt = self.src_prompt.clone();
        let prompt = prompt.or_else(|| stated.filter(|prompt| !prompt.is_empty()).cloned());
        let reason = "the latents do not state what the picture shows: pass --src-prompt";
        let prompt = prompt.ok_or_else(|| Error::setting(reason))?;
        let request = self.control.edit(model, prompt, self.tgt_prompt.clone())?;
        let result = &self.result;
        let mask = mask.map(|mask| frame.latent_mask(mask, model.device()));
        let attention = result.attention_maps.is_some();
        let source = attention || result.save.dump.is_some() || result.comparison.is_some();
        Ok(Edit {
            mask: mask.transpose()?,
            outputs: Outputs { source, attention },
            ..request
        })
    }

    /// How results are finished. Notes why no pixels are kept where some might be expected.
    fn finish<'a>(
        &self,
        frame: &'a Frame<'a>,
        edit: &Edit,
        mask: Option<&'a Picture>,
        console: &Console,
    ) -> Finish<'a> {
        let size = self.result_size(frame);
        let asked = self.result.keep_pixels;
        let keeper = match Keeping::of(asked, (frame, size), edit, mask) {
            Keeping::Yes(keeper) => Some(keeper),
            Keeping::No => None,
            Keeping::Impossible(reason) => {
                console.note(reason);
                None
            }
        };
        Finish {
            frame,
            keeper,
            size,
        }
    }

    /// The size of the results: the photo's, unless another was asked for.
    fn result_size(&self, frame: &Frame) -> ResultSize {
        let by_default = frame.placed().is_some() && !self.size.is_given();
        match self.result.restore_size || by_default && !self.result.model_size {
            true => ResultSize::Photo,
            false => ResultSize::Work,
        }
    }

    fn inverted(
        &self,
        pipeline: &Pipeline,
        (frame, seed): (&Frame, u64),
        console: &mut Console,
    ) -> Result<Tensor> {
        let latent = match frame {
            Frame::Photo(placed, _) => {
                let inversion = Inversion {
                    pipeline,
                    placed,
                    prompt: self.src_prompt.as_deref().unwrap_or_default(),
                    seed,
                };
                inversion.cached(self.cache.as_ref(), console)?.latent
            }
            Frame::Latents(latents, _) => latents.latent.clone(),
        };
        Ok(latent.to_device(pipeline.model().device())?)
    }

    fn write(
        &self,
        pipeline: &Pipeline,
        edited: &Edited,
        (finish, outputs): (&Finish, &[PathBuf]),
        settings: &[Settings],
        console: &mut Console,
    ) -> Result<()> {
        let (result, existing) = (&self.result, self.result.save.write.existing());
        if let Some(file) = &result.save_latents {
            let latents = vec![("latent".into(), edited.targets.clone())];
            write_tensors(file, &latents, HashMap::new(), existing)?;
        }
        let with_sheets = result.comparison.is_some() || result.attention_maps.is_some();
        let source = edited.source.as_ref().filter(|_| with_sheets);
        let latents: Vec<_> = source.into_iter().chain([&edited.targets]).collect();
        let mut decoded = pipeline.decode(&Tensor::cat(&latents, 0)?, console)?;
        let source = source.map(|_| decoded.remove(0));
        if let Some(size) = finish.frame.worked_at() {
            console.note(&size);
        }
        let finished = |size| finish.pictures(&decoded, edited, size);
        self.write_results(finished(finish.size), outputs, settings)?;
        if !with_sheets {
            return Ok(());
        }
        let shown = Shown {
            edited,
            photo: finish.frame.placed().map(|placed| placed.picture.clone()),
            source: source.map(|source| finish.frame.finished(&source, ResultSize::Work)),
            targets: finished(ResultSize::Work).collect::<Result<_>>()?,
        };
        if let Some(file) = &result.comparison {
            picture::write(&shown.comparison()?, file, None, existing)?;
        }
        match &result.attention_maps {
            Some(folder) => shown.write_attention(folder, existing),
            None => Ok(()),
        }
    }

    fn write_results(
        &self,
        results: impl Iterator<Item = Result<Picture>>,
        outputs: &[PathBuf],
        settings: &[Settings],
    ) -> Result<()> {
        let save = &self.result.save;
        let mut results = results.zip(outputs).zip(settings);
        results.try_for_each(|((result, file), own)| {
            let own = (!save.no_metadata).then_some(own);
            picture::write(&result?, file, own, save.write.existing())
        })
    }
}

/// Warns about settings that are hardly meant.
fn warn(
    model: &Model,
    (frame, edit): (&Frame, &Edit),
    settings: &Settings,
    console: &Console,
) -> Result<()> {
    warn_of_guidance(edit.guidance, console);
    warn_of_factors(&edit.control, console);
    warn_of_size(model, frame.worked(model)?, console)?;
    warn_of_other_model(model, settings, console)?;
    match frame.placed() {
        Some(_) => warn_of_gap(model, console),
        None => Ok(()),
    }
}
