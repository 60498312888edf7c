//! `icd eval inversion`.

use anyhow::Result;
use clap::{ArgMatches, Args, Command};
use icd::{
    batch::Job,
    eval::{Data, Sample, bundled},
    metrics::Metric,
    model::MethodName,
};
use serde_json::json;

use super::{
    OutArgs, PicturesArgs,
    evaluation::{self, Evaluation, add_model, job_of},
    made::{self, Making},
};
use crate::cli::{
    ReportArgs,
    args::{method::MethodArgs, model::ModelArgs, size::SizeArgs},
};

/// Inverts pictures, reconstructs them unguided, and compares.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InversionArgs {
    #[command(flatten)]
    pictures: PicturesArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd eval inversion pictures --out back
  icd eval inversion tabletop --out tabletop-back --limit 8";

impl InversionArgs {
    pub(super) fn run(&self, command: &Command, given: (&Command, &ArgMatches)) -> Result<()> {
        made::create(&self.out.out)?;
        let data = Data::of(&self.pictures.data)?;
        let sources = self.out.out.join("sources");
        let mut samples = data.reconstructions(
            &self.pictures.data,
            self.pictures.images.as_deref(),
            &sources,
        )?;
        samples.truncate(self.out.limit.unwrap_or(usize::MAX));
        if data == Data::Bundled {
            bundled::write(&samples)?;
        }
        let asked = self.method.asked().unwrap_or_default();
        let jobs = samples.iter().map(|sample| {
            let mut job = job(sample, asked);
            add_model(&mut job, data, given.1);
            job
        });
        let making = Making {
            data: &self.pictures.data,
            out: &self.out,
            model: &self.model,
            max_rows: self.pictures.max_rows,
            report: self.report,
            command,
            given,
        };
        let mut metrics = self.out.measure.metrics();
        // Prompts are not followed, but the picture.
        metrics.retain(|metric| *metric != Metric::Clip);
        let evaluation = Evaluation {
            data: (data, &self.pictures.data),
            samples: &samples,
            out: &self.out,
            metrics,
            left_out: self.out.measure.left_out(),
            settings: evaluation::settings(given),
            report: self.report,
        };
        evaluation.run(&making, jobs.collect())
    }
}

/// An edit that changes nothing: under the prompt of the inversion, without control, and
/// unguided, unless embeddings are optimised for guidance. It states its method, because what is
/// unguided depends on that: the model's own default is not asked.
fn job(sample: &Sample, method: MethodName) -> Job {
    let mut job = job_of(sample);
    let unguided = match method {
        MethodName::Icd => Some(json!(0)),
        MethodName::Ddim | MethodName::Npi => Some(json!(1)),
        MethodName::Nti => None,
    };
    job.extend(unguided.map(|unguided| ("guidance".to_owned(), unguided)));
    let plain = [
        ("method", json!(method.as_str())),
        ("control", json!("none")),
        ("amplify", json!(["none"])),
        ("keep_pixels", json!("off")),
    ];
    job.extend(plain.map(|(key, value)| (key.to_owned(), value)));
    job
}
