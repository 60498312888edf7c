//! `icd eval editing`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{ArgMatches, Args, Command};
use icd::{
    Error,
    batch::{Job, Replacement, Shard},
    eval::{Data, Sample, bundled},
};
use serde_json::json;

use super::{
    OutArgs, PicturesArgs,
    evaluation::{self, Done, Evaluation, Taken, add_model, job_of},
    made::{self, Making},
};
use crate::cli::{
    Console, ReportArgs,
    args::{
        control::ControlArgs, method::MethodArgs, model::ModelArgs, result::KeepPixels,
        size::SizeArgs,
    },
};

/// Edits the pictures of a data set and measures the results.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EditingArgs {
    #[command(flatten)]
    pictures: PicturesArgs,
    /// Measure the results of another method in this folder, each under the path of its picture;
    /// no model is run. Of a picture that is not square the lower right 512x512 count, as
    /// PnPInversion's methods write them.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Words of captions and those in their place, where a folder has no NAME.target.txt; repeat
    /// it for several.
    #[arg(long, value_name = "FROM=TO")]
    replace: Vec<Replacement>,
    /// Restrict each edit to the words that the data names (blended_word), by local blend.
    #[arg(long, conflicts_with = "blend")]
    blend_words: bool,
    /// As that of `icd edit`.
    #[arg(long, value_name = "on|off", num_args = 0..=1, default_missing_value = "on")]
    #[arg(hide_possible_values = true)]
    keep_pixels: Option<KeepPixels>,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    _method: MethodArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd eval editing pie-bench --out out --protocol pie-2023
  icd eval editing pie-bench --out part --shard 1/4
  icd eval editing pie-bench --out compared --results other-method
  icd eval editing pictures --replace \"bird=lego bird\" --out edited";

impl EditingArgs {
    pub(super) fn run(&self, command: &Command, given: (&Command, &ArgMatches)) -> Result<()> {
        made::create(&self.out.out)?;
        let data = Data::of(&self.pictures.data)?;
        let sources = self.out.out.join("sources");
        let images = self.pictures.images.as_deref();
        let mut samples = data.samples(&self.pictures.data, images, &self.replace, &sources)?;
        samples.truncate(self.out.limit.unwrap_or(usize::MAX));
        if data == Data::Bundled {
            bundled::write(&samples)?;
        }
        let evaluation = Evaluation {
            data: (data, &self.pictures.data),
            samples: &samples,
            out: &self.out,
            metrics: self.out.measure.metrics(),
            left_out: self.out.measure.left_out(),
            settings: evaluation::settings(given),
            report: self.report,
        };
        if let Some(folder) = &self.results {
            return self.compare(folder, &evaluation);
        }
        let jobs = samples.iter().map(|sample| self.job(sample, data, given.1));
        let making = Making {
            data: &self.pictures.data,
            out: &self.out,
            model: &self.model,
            max_rows: self.pictures.max_rows,
            report: self.report,
            command,
            given,
        };
        evaluation.run(&making, jobs.collect())
    }

    /// The job of a sample, with what the data says of it.
    fn job(&self, sample: &Sample, data: Data, given: &ArgMatches) -> Job {
        let mut job = job_of(sample);
        if let Some([source, target]) = sample.words.as_ref().filter(|_| self.blend_words) {
            job.insert("blend".into(), json!([format!("{source}:{target}")]));
        }
        add_model(&mut job, data, given);
        job
    }

    /// Measures results that another method made.
    fn compare(&self, folder: &Path, evaluation: &Evaluation) -> Result<()> {
        let reason = || format!("{}: this is not a folder", folder.display());
        ensure!(folder.is_dir(), Error::setting(reason()));
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let results = evaluation.samples.iter().map(|sample| {
            let file = folder.join(&sample.result);
            match file.is_file() {
                true => file,
                false => file.with_extension("png"),
            }
        });
        let results: Vec<_> = results.collect();
        let shard = self.out.shard()?;
        let keys = evaluation
            .samples
            .iter()
            .map(|sample| [sample.key.as_str(), ""]);
        let keys: Vec<_> = keys.collect();
        let whole = Shard::new(0, 1).context("a shard")?;
        let own = shard.unwrap_or(whole).of(&keys);
        let mut console = Console::of_jobs(self.report);
        let device = self.model.open_device(&console)?;
        let done = Done {
            results: &results,
            own: &own,
            shard,
        };
        evaluation.measure(
            &done,
            (&device, self.model.yes()),
            &name,
            (None, Taken::default()),
            &mut console,
        )
    }
}
