//! What a run shows while it works and tells when it is done.

use std::{
    collections::{BTreeMap, HashMap},
    io::{ErrorKind, Write, stderr, stdout},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use candle_core::Tensor;
use icd::{
    edit::Moment,
    latents::{Tensors, write_tensors},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{ReportArgs, output};

/// Writes a line to stderr.
pub(super) fn say(line: &str) {
    // Whoever closed stderr does not want to hear that it is closed.
    let _ = writeln!(stderr(), "{line}");
}

/// Writes a line to stdout.
pub(super) fn tell(line: &str) -> Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Writes bytes to stdout. A reader that has gone away has read enough.
pub(super) fn print(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to stdout")
        }
        _ => Ok(()),
    }
}

/// The progress bar, the evaluation count and the dump of one run.
pub(super) struct Console {
    report: ReportArgs,
    bar: ProgressBar,
    began: Instant,
    /// Rows of each evaluation, in order.
    evaluations: Vec<usize>,
    dump: Option<(PathBuf, BTreeMap<String, Tensor>)>,
}

impl Console {
    /// A console that keeps every value for the file `dump`, if there is one.
    pub(super) fn new(report: ReportArgs, dump: Option<&Path>) -> Self {
        Self {
            report,
            bar: if report.quiet {
                ProgressBar::hidden()
            } else {
                spinner()
            },
            began: Instant::now(),
            evaluations: Vec::new(),
            dump: dump.map(|file| (file.to_path_buf(), BTreeMap::new())),
        }
    }

    /// Whether every value is kept for a file.
    pub(super) fn dumps(&self) -> bool {
        self.dump.is_some()
    }

    /// Lets something else speak while the progress line waits; it learns
    /// whether to be quiet.
    pub(super) fn aside<T>(&self, speak: impl FnOnce(bool) -> T) -> T {
        self.bar.suspend(|| speak(self.report.quiet))
    }

    /// A remark that belongs to every run.
    pub(super) fn note(&self, line: &str) {
        if !self.report.quiet {
            self.bar.suspend(|| say(line));
        }
    }

    /// A remark for those who ask for more.
    pub(super) fn detail(&self, line: &str) {
        if self.report.verbose {
            self.note(line);
        }
    }

    /// Sees a moment of a walk.
    pub(super) fn see(&mut self, moment: Moment) {
        match moment {
            Moment::Begins(what) => {
                self.bar.set_style(style(WAITING));
                self.bar.set_message(what);
                self.detail(&format!(
                    "{:7.1} s  {what}",
                    self.began.elapsed().as_secs_f64()
                ));
            }
            Moment::Evaluated { step, of, rows } => {
                self.evaluations.push(rows);
                self.bar.set_style(style(STEPPING));
                self.bar.set_length(of as u64);
                self.bar.set_position(step as u64 + 1);
            }
            Moment::Value(name, value) => {
                if let Some((_, values)) = &mut self.dump {
                    values.insert(name.into(), value.clone());
                }
            }
        }
    }

    /// Takes the progress line away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes the dump and tells the evaluations.
    pub(super) fn finish(&mut self) -> icd::Result<()> {
        self.clear();
        let seconds = self.began.elapsed().as_secs_f64();
        self.detail(&format!("{seconds:7.1} s  done; {}", self.count()));
        match self.dump.take() {
            Some((file, values)) => {
                let values: Tensors = values.into_iter().collect();
                write_tensors(&file, &values, HashMap::new())
            }
            None => Ok(()),
        }
    }

    /// Tells one result: the file's name, or a JSON object with the facts.
    /// What went to stdout itself is not told there.
    pub(super) fn result(&self, output: &Path, facts: Value) -> Result<()> {
        if output::is_stdout(output) {
            return Ok(());
        }
        if !self.report.json {
            return tell(&output.display().to_string());
        }
        let mut object = Map::new();
        object.insert("output".into(), json!(output));
        if let Value::Object(facts) = facts {
            object.extend(facts);
        }
        object.insert("evaluations".into(), json!(self.evaluations));
        object.insert("seconds".into(), json!(self.began.elapsed().as_secs_f64()));
        tell(&Value::Object(object).to_string())
    }

    /// The evaluations in words: "network evaluations: 4 of 1 row, 4 of 2 rows".
    fn count(&self) -> String {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for &rows in &self.evaluations {
            *counts.entry(rows).or_default() += 1;
        }
        let words = counts.iter().map(|(rows, count)| {
            format!(
                "{count} of {rows} {}",
                if *rows == 1 { "row" } else { "rows" }
            )
        });
        format!(
            "network evaluations: {}",
            words.collect::<Vec<_>>().join(", ")
        )
    }
}

impl Drop for Console {
    /// Leaves no progress line behind, whatever happened.
    fn drop(&mut self) {
        self.clear();
    }
}

/// What the progress line shows while something of unknown length runs.
const WAITING: &str = "{spinner} {msg} {elapsed}";
/// What it shows along the steps of a walk.
const STEPPING: &str = "{spinner} {msg} {bar:24} {pos}/{len} {elapsed}";

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(style(WAITING));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
