//! `icd eval generation`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{ArgMatches, Args, Command};
use icd::{
    Error,
    eval::{Area, Data, Sample},
    metrics::Metric,
    schedule::DdimSteps,
};
use serde_json::json;

use super::{
    OutArgs,
    evaluation::{self, Evaluation},
    made::{self, Making},
    prompts,
};
use crate::cli::{
    ReportArgs,
    args::{model::ModelArgs, values::size},
};

/// Generates pictures from prompts and measures their CLIP score.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GenerationArgs {
    /// Prompts: a text file of one on each line, or a CSV with a column caption or prompt.
    #[arg(value_name = "PROMPTS")]
    prompts: PathBuf,
    /// Seed of the first picture's noise; each has the next.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_seed: u64,
    /// Guidance scale [default: as for `icd generate`].
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// DDIM steps of the model without adapters [default: as for `icd generate`].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<DdimSteps>,
    /// What the pictures should not show, as for `icd generate`.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    negative_prompt: Option<String>,
    /// The size of the pictures: N for a square, or WxH [default: the model's].
    #[arg(long, value_name = "N|WxH", value_parser = size)]
    size: Option<icd::picture::Size>,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd eval generation prompts.txt --out out --weights clip=clip-vit-large-patch14
  icd eval generation prompts.csv --out first --limit 1 \\
      --weights clip=clip-vit-large-patch14";

const NO_FID: &str = "not measured: FID, of which no copy of the network is the published one";

impl GenerationArgs {
    pub(super) fn run(&self, command: &Command, given: (&Command, &ArgMatches)) -> Result<()> {
        let metrics = self
            .out
            .measure
            .asked()
            .unwrap_or_else(|| vec![Metric::Clip]);
        let reason = "only clip measures a picture that was generated: the others compare two";
        ensure!(metrics == [Metric::Clip], Error::setting(reason));
        let mut texts = prompts::read(&self.prompts)?;
        texts.truncate(self.out.limit.unwrap_or(usize::MAX));
        made::create(&self.out.out)?;
        let samples: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| self.sample(index, text))
            .collect();
        let jobs = samples.iter().map(|sample| {
            let facts = [
                ("verb", json!("generate")),
                ("prompt", json!(sample.target_prompt)),
                ("seed", json!(sample.seed)),
                ("output", json!(made::output(&sample.result))),
            ];
            facts
                .map(|(key, value)| (key.to_owned(), value))
                .into_iter()
                .collect()
        });
        let making = Making {
            data: &self.prompts,
            out: &self.out,
            model: &self.model,
            max_rows: None,
            report: self.report,
            command,
            given,
        };
        let evaluation = Evaluation {
            data: (Data::List, &self.prompts),
            samples: &samples,
            out: &self.out,
            metrics,
            left_out: Some(NO_FID.into()),
            settings: evaluation::settings(given),
            report: self.report,
        };
        evaluation.run(&making, jobs.collect())
    }

    /// A prompt; what is generated is the only picture.
    fn sample(&self, index: usize, text: &str) -> Sample {
        let result = PathBuf::from(format!("{index:05}.png"));
        Sample {
            key: format!("{index:05}"),
            kind: "generation".into(),
            image: self.out.out.join(Path::new(&made::output(&result))),
            result,
            source_prompt: String::new(),
            target_prompt: text.to_owned(),
            words: None,
            area: Area::Untold,
            seed: Some(self.first_seed.saturating_add(index as u64)),
            truth: None,
        }
    }
}
