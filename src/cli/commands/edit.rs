//! `icd edit`.

mod files;
mod prepared;
mod sheet;
mod sweep;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use clap::Args;
use icd::{
    Error,
    pipeline::{Latents, Pipeline},
};
use serde_json::{Value, json};

pub(crate) use prepared::{Given, Prepared};
pub(crate) use sweep::{Call, Sweep};

use files::Files;

use crate::cli::{
    Console, ReportArgs,
    args::{
        control::ControlArgs,
        method::MethodArgs,
        model::ModelArgs,
        output::{self, beside_name, is_stdout, numbered},
        result::ResultArgs,
        size::SizeArgs,
        sweep::SweepArgs,
        values::Seed,
    },
    canvas::Input,
    picture,
    settings::{InputHash, Settings},
    storage,
    ui::{hints, sheets},
};

/// Edits a picture, given a prompt that describes it and one for the result.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EditArgs {
    /// The picture (- for stdin): PNG, JPEG, WebP, GIF or BMP, recognised by its content.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["latents", "from"])]
    pub(crate) image: Option<PathBuf>,
    /// The latents that `icd invert` wrote, in place of a picture.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub(crate) latents: Option<PathBuf>,
    /// What the picture shows [default with --latents: the prompt of the inversion].
    #[arg(long, allow_hyphen_values = true)]
    #[arg(required_unless_present_any = ["latents", "from"])]
    pub(crate) src_prompt: Option<String>,
    /// What it should show; repeat it for several edits of one inversion.
    #[arg(long, required_unless_present_any = ["from", "sweep"], allow_hyphen_values = true)]
    pub(crate) tgt_prompt: Vec<String>,
    /// Reuse the prompts, picture and settings in a picture that `icd edit` wrote; flags
    /// override them.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The edited picture (- for stdout); several get -1, -2, .. [default: IN.edited.png].
    #[arg(long, short, value_name = "FILE", value_parser = output::picture())]
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
    /// Print what would be done (tokens, words, evaluations, memory); load no weights.
    #[arg(long)]
    dry_run: bool,
    /// Keep inversions in this folder and reuse them.
    #[arg(long, env = "ICD_CACHE", hide_env_values = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Most rows (the source and targets) of one network evaluation, more are evaluated in
    /// groups: less memory for many --tgt-prompt, the same results [default: 8].
    #[arg(long, value_name = "N")]
    max_rows: Option<NonZeroUsize>,
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
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
  icd edit --from dog.png --amplify dog=5 -o dog-stronger.png
  icd edit --from dog.png --sweep tau=0.6,0.8 --sweep self-replace=0.2,0.6 \\
      -o sheet.png
  icd edit --from sheet.png --pick 2,1 -o picked.png
  icd edit --image in.png --src-prompt \"a cat on a sofa\" \\
      --tgt-prompt \"a dog on a sofa\" --method npi --steps 20 -o npi.png";

impl EditArgs {
    pub(crate) fn run(&self, settings: Settings) -> Result<()> {
        let dump = self.result.save.dump.as_deref();
        let mut console = Console::new(self.report, dump.is_some());
        let outputs = self.checked_outputs()?;
        let (input, hash) = self.read(&console)?;
        let settings = settings.of_input(hash, self.input())?;
        let mask = self.result.read_mask(&console)?;
        let given = Given {
            input: &input,
            mask: mask.as_ref(),
            settings,
        };
        let pipeline = self.open(&console)?;
        let edit = self.prepared(given, &pipeline, &console)?;
        if self.dry_run {
            return edit.print_plan(&pipeline, self.report, &console);
        }
        let settings = edit.settings(pipeline.model())?;
        let mut noted = outputs.iter().zip(&settings);
        noted.try_for_each(|(file, own)| self.result.save.check_settings(file, own))?;
        let inverted = edit.inverted(&pipeline, self.cache.as_ref(), &mut console)?;
        let edited = pipeline.edit(&inverted, &edit.request, &mut console)?;
        let files = Files {
            result: &self.result,
            outputs: &outputs,
            settings: &settings,
        };
        files.write(&pipeline, (&edit, &edited), &mut console)?;
        console.write_dump(dump, 0, self.result.save.write.existing())?;
        console.finish();
        let targets = edit.request.targets.iter().zip(&edited.hints);
        let mut results = outputs.iter().zip(targets).zip(settings);
        results.try_for_each(|((output, (target, hint)), settings)| {
            let mut facts = Value::Object(settings.facts());
            facts["source"] = json!(edit.request.source);
            facts["target"] = json!(target);
            if let Some(hint) = hint {
                console.note(&hints::line(hint));
                facts["hint"] = hints::fact(hint);
            }
            console.result(output, 0, facts)
        })
    }

    /// Opens the model.
    fn open(&self, console: &Console) -> Result<Pipeline> {
        let pipeline = self.model.open(console)?;
        Ok(match self.max_rows {
            Some(rows) => pipeline.with_max_rows(rows),
            None => pipeline,
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
            let files = outputs.iter().chain(beside);
            output::check_distinct(files.clone())?;
            output::check_folders(result.attention_maps.iter().chain(&self.cache), files)?;
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
    pub(crate) fn input(&self) -> Option<&Path> {
        self.image.as_deref().or(self.latents.as_deref())
    }

    /// Reads the input, before a model is opened, and hashes it.
    pub(crate) fn read(&self, console: &Console) -> Result<(Input, InputHash)> {
        match (&self.image, &self.latents) {
            (Some(image), _) => {
                let (photo, hash) = picture::read_hashed(image, console)?;
                Ok((Input::Photo(photo), hash))
            }
            (None, Some(dump)) => {
                let latents = Latents::decode(&storage::read(dump)?, dump)?;
                let hash = InputHash::of_latents(&latents)?;
                Ok((Input::Latents(dump.clone(), latents), hash))
            }
            (None, None) => bail!(Error::setting("no input: pass --image or --latents")),
        }
    }
}
