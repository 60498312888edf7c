//! What a batch would do and take, without loading weights.

use std::path::Path;

use anyhow::Result;
use icd::{
    picture::Size,
    pipeline::{Pipeline, Workload},
};
use indicatif::HumanBytes;
use serde_json::json;

use super::{check::Checked, jobs::Line, report::located, runner::Runner};
use crate::cli::{
    ReportArgs,
    exit::Exit,
    ui::{
        dry_run::rough,
        lines::{log_error, print_line},
        speed,
    },
};

/// The bytes of a pixel in a PNG of a photo, roughly.
const BYTES_PER_PIXEL: f64 = 1.5;
/// The bytes of a value of latents.
const BYTES_PER_VALUE: f64 = 4.0;

/// What a batch takes.
#[derive(Default)]
struct Plan {
    jobs: usize,
    finished: usize,
    failed: usize,
    /// Results to make.
    results: usize,
    evaluations: usize,
    rows: usize,
    flops: f64,
    bytes: f64,
    /// The last work and its operations: most jobs of a batch are alike.
    counted: Option<(String, f64)>,
}

/// Prints the plan of the jobs of these lines; an end with code 1 if some are at fault.
pub(crate) fn print(
    manifest: &Path,
    lines: Vec<Line>,
    runner: &mut Runner,
    report: ReportArgs,
) -> Result<()> {
    let mut plan = Plan {
        jobs: lines.len(),
        ..Plan::default()
    };
    let mut speed = None;
    runner.console.begin_jobs("checking", lines.len());
    for line in lines {
        if let Ok(task) = &line {
            runner.go_on_to(task);
        }
        let (number, fault) = match line {
            Ok(task) => match runner.check(&task)? {
                Ok(checked) => {
                    plan.add(&checked, (&task.work.model_key(), runner.pipeline(&task)?))?;
                    if speed.is_none() && !checked.todo.is_empty() {
                        let placement = runner.pipeline(&task)?.model().placement().clone();
                        speed = Some(speed::flops_per_second(&placement)?);
                    }
                    runner.console.end_jobs(1);
                    continue;
                }
                Err(reason) => (task.line, reason),
            },
            Err(refused) => (refused.line, refused.fault.reason),
        };
        plan.failed += 1;
        runner
            .console
            .suspended(|_| log_error(&located(manifest, number, &fault)));
        runner.console.end_jobs(1);
    }
    runner.console.clear();
    let seconds = plan.seconds(runner, speed);
    plan.tell(seconds, report)?;
    match plan.failed {
        0 => Ok(()),
        _ => Err(Exit::JobsFailed(None).into()),
    }
}

impl Plan {
    fn add(&mut self, checked: &Checked, model: (&str, &Pipeline)) -> Result<()> {
        if checked.todo.is_empty() {
            self.finished += 1;
            return Ok(());
        }
        self.results += checked.todo.len();
        self.evaluations += checked.load.evaluations.len();
        self.rows += checked.load.evaluations.iter().sum::<usize>();
        self.flops += self.flops_of(&checked.load, model)?;
        let latent = 4.0 * checked.load.latent.pixels() as f64 * BYTES_PER_VALUE;
        let bytes = checked
            .size
            .map_or(latent, |size: Size| size.pixels() as f64 * BYTES_PER_PIXEL);
        self.bytes += bytes * checked.todo.len() as f64;
        Ok(())
    }

    fn flops_of(&mut self, load: &Workload, (key, pipeline): (&str, &Pipeline)) -> Result<f64> {
        let key = format!("{key} {load:?}");
        if let Some((_, flops)) = self.counted.as_ref().filter(|(last, _)| *last == key) {
            return Ok(*flops);
        }
        let flops = pipeline.cost(load)?.flops;
        self.counted = Some((key, flops));
        Ok(flops)
    }

    /// From the rate of earlier results in the folder, else from the speed of the machine,
    /// measured in a moment.
    fn seconds(&self, runner: &Runner, speed: Option<f64>) -> Option<(f64, &'static str)> {
        match (runner.results.mean(), speed) {
            (Some((seconds, _)), _) => {
                let all = seconds * self.results as f64;
                Some((all, "at the rate of the results in the folder"))
            }
            (None, Some(speed)) => Some((self.flops / speed, "without shared inversions")),
            (None, None) => None,
        }
    }

    fn tell(&self, seconds: Option<(f64, &str)>, report: ReportArgs) -> Result<()> {
        if report.json {
            let plan = json!({
                "jobs": self.jobs,
                "finished": self.finished,
                "failed": self.failed,
                "results": self.results,
                "evaluations": self.evaluations,
                "evaluated_rows": self.rows,
                "seconds": seconds.map(|(seconds, _)| seconds),
                "disk_bytes": self.bytes as u64,
            });
            return print_line(&plan.to_string());
        }
        let time = match seconds {
            Some((seconds, how)) => format!("about {}, {how}", rough(seconds)),
            None => "nothing to do".into(),
        };
        print_line(&format!("jobs: {}", self.jobs))?;
        print_line(&format!("finished before: {}", self.finished))?;
        print_line(&format!("at fault: {}", self.failed))?;
        print_line(&format!("results to make: {}", self.results))?;
        print_line(&format!(
            "network evaluations: at most {} of {} rows",
            self.evaluations, self.rows
        ))?;
        print_line(&format!("time: {time}"))?;
        print_line(&format!("disk: about {}", HumanBytes(self.bytes as u64)))
    }
}
