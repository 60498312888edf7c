//! From samples and their jobs to tables: what all evaluations have in common.

use std::path::{self, Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use clap::{ArgMatches, Command};
use icd::{
    batch::{Job, Shard},
    eval::{Data, Judge, Sample},
    metrics::Metric,
    model::bundled,
};
use serde_json::{Map, Value, json};

use super::{
    OutArgs,
    made::{self, Making},
    measured::Measuring,
    results::Tables,
};
use crate::cli::{
    Console, ReportArgs,
    batch::results::Results,
    settings::{Origin, Settings, is_typed},
};

/// The settings of an evaluation, without those of where and how it is done.
pub(super) fn settings((command, given): (&Command, &ArgMatches)) -> Map<String, Value> {
    const ASIDE: [&str; 9] = [
        "out", "shard", "name", "shown", "results", "version", "verb", "weights", "protocol",
    ];
    let mut facts = Settings::of(command, given, Origin::default()).facts();
    facts.retain(|key, _| !ASIDE.contains(&key.as_str()));
    facts
}

/// The edit of a sample as a job of a batch. Its picture is named by an absolute path, by which
/// its result is known again from any folder.
pub(super) fn job_of(sample: &Sample) -> Job {
    let image = path::absolute(&sample.image).unwrap_or_else(|_| sample.image.clone());
    let image = image.to_string_lossy().into_owned();
    let facts = [
        ("image", json!(image)),
        ("src_prompt", json!(sample.source_prompt)),
        ("tgt_prompt", json!([sample.target_prompt])),
        ("output", json!(made::output(&sample.result))),
    ];
    let seed = sample.seed.map(|seed| ("seed", json!(seed)));
    let facts = facts.into_iter().chain(seed);
    facts.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The bundled world is that of the bundled model, unless another is asked for.
pub(super) fn add_model(job: &mut Job, data: Data, given: &ArgMatches) {
    if data == Data::Bundled && !is_typed("model", given) {
        job.insert("model".into(), json!(bundled::NAME));
    }
}

/// What a result took, on average over those of which it is known: no part of the files of
/// tables, which do not depend on machines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Evaluations of networks.
    pub(super) evaluations: Option<f64>,
    pub(super) seconds: Option<f64>,
}

impl Taken {
    fn of(results: &Results) -> Self {
        Self {
            evaluations: results.mean_evaluations(),
            seconds: results.mean().map(|(seconds, _)| seconds),
        }
    }
}

/// What all evaluations do with their samples.
pub(super) struct Evaluation<'a> {
    pub(super) data: (Data, &'a Path),
    pub(super) samples: &'a [Sample],
    pub(super) out: &'a OutArgs,
    /// What is measured, and what is left out.
    pub(super) metrics: Vec<Metric>,
    pub(super) left_out: Option<String>,
    pub(super) settings: Map<String, Value>,
    pub(super) report: ReportArgs,
}

/// The results of a part.
pub(super) struct Done<'a> {
    pub(super) results: &'a [PathBuf],
    pub(super) own: &'a [usize],
    pub(super) shard: Option<Shard>,
}

impl Evaluation<'_> {
    /// Makes the results and measures them.
    pub(super) fn run(&self, making: &Making, jobs: Vec<Job>) -> Result<()> {
        let shard = self.out.shard()?;
        let outputs = jobs.iter().map(|job| {
            let output = job.get("output").and_then(Value::as_str);
            self.out.out.join(output.unwrap_or_default())
        });
        let mut results: Vec<_> = outputs.collect();
        let made = making.run(jobs, shard)?;
        for index in &made.faults {
            results[*index] = PathBuf::new();
        }
        let mut runner = made.runner;
        let taken = Taken::of(&runner.results);
        let device = runner.device().clone();
        runner.close();
        let part = Done {
            results: &results,
            own: &made.own,
            shard,
        };
        let yes = making.model.yes();
        self.measure(
            &part,
            (&device, yes),
            "icd",
            (made.failed, taken),
            &mut runner.console,
        )
    }

    /// Measures results and writes the tables.
    pub(super) fn measure(
        &self,
        part: &Done,
        (device, yes): (&Device, bool),
        name: &str,
        (failed, taken): (Option<String>, Taken),
        console: &mut Console,
    ) -> Result<()> {
        let measure = &self.out.measure;
        let loaded = measure.load(&self.metrics, (device, yes), console)?;
        let weights = format!("{:?}", loaded.networks);
        let judge = Judge::new(loaded.suite, measure.protocol, self.data.0, weights);
        let measuring = Measuring {
            samples: self.samples,
            results: part.results,
            judge: &judge,
            folder: &self.out.out,
        };
        let measured = measuring.run(part.own, part.shard, console)?;
        let tables = Tables {
            folder: &self.out.out,
            data: self.data,
            method: self.out.name.clone().unwrap_or_else(|| name.to_owned()),
            protocol: measure.protocol,
            columns: judge.columns(self.samples),
            networks: loaded.networks,
            settings: self.settings.clone(),
            samples: self.samples,
            results: part.results,
            measured,
            left_out: self.left_out.clone(),
            failed,
            taken,
            shown: self.out.shown,
        };
        tables.write(console, self.report.json)
    }
}
