//! Progress, messages and results of a run.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    diffusion::{Event, Observer},
    io::{Existing, Tensors, write_tensors},
};
use serde_json::{Value, json};

use super::{
    lines::{log_error, log_line, print_line, print_result},
    progress::{Bar, JOBS, STEPPING, WAITING, style},
};
use crate::cli::{ReportArgs, args::output};

/// Most warnings that are told.
const MAX_WARNINGS: usize = 1000;
/// Progress bar, evaluation count and dump of one run.
pub(crate) struct Console {
    report: ReportArgs,
    bar: Arc<Bar>,
    began: Instant,
    /// Values common to all pictures of the run.
    common: Record,
    /// One record per picture, if there are several.
    pictures: Vec<Record>,
    dumps: bool,
    /// What is told only once and has been.
    once: RefCell<BTreeSet<String>>,
    /// The jobs of a batch, whose progress is shown instead of that of steps.
    jobs: Option<Jobs>,
}

/// What consoles on several threads have in common.
#[derive(Clone)]
pub(crate) struct SharedConsole(ReportArgs, Arc<Bar>);

impl SharedConsole {
    /// A console of jobs with the same bar.
    pub(crate) fn console(self) -> Console {
        let mut console = Console::with_bar(self.0, false, self.1);
        console.jobs = Some(Jobs::default());
        console
    }
}

/// The progress of a batch.
#[derive(Default)]
struct Jobs {
    /// What the current job is called in warnings; empty between jobs.
    label: String,
    failed: usize,
}

/// The evaluations and values of a picture.
#[derive(Clone, Default)]
struct Record {
    /// Batch size of each evaluation, in order.
    evaluations: Vec<usize>,
    /// Values by name, kept if a dump is requested.
    values: BTreeMap<String, Tensor>,
}

impl Console {
    /// A console that keeps every value if a dump is requested.
    pub(crate) fn new(report: ReportArgs, dumps: bool) -> Self {
        let bar = match report.quiet {
            true => Bar::hidden(),
            false => Bar::spinner(),
        };
        Self::with_bar(report, dumps, Arc::new(bar))
    }

    fn with_bar(report: ReportArgs, dumps: bool, bar: Arc<Bar>) -> Self {
        Self {
            report,
            bar,
            began: Instant::now(),
            common: Record::default(),
            pictures: Vec::new(),
            dumps,
            once: RefCell::default(),
            jobs: None,
        }
    }

    /// A console with one bar for all jobs of a batch.
    pub(crate) fn of_jobs(report: ReportArgs) -> Self {
        let mut console = Self::new(report, false);
        console.jobs = Some(Jobs::default());
        console
    }

    /// What the consoles of other workers on the same batch are made of.
    pub(crate) fn shared(&self) -> SharedConsole {
        SharedConsole(self.report, self.bar.clone())
    }

    /// Shows the progress of so many jobs.
    pub(crate) fn begin_jobs(&self, what: &'static str, count: usize) {
        self.bar.set_style(style(JOBS));
        self.bar.set_length(count as u64);
        self.bar.set_position(0);
        self.bar.reset_elapsed();
        self.bar.set_prefix(what);
    }

    /// Begins a job, which warnings name; an empty name ends it.
    pub(crate) fn begin_job(&mut self, label: String) {
        self.common = Record::default();
        self.pictures.clear();
        if let Some(jobs) = &mut self.jobs {
            jobs.label = label;
        }
    }

    /// Ends so many jobs.
    pub(crate) fn end_jobs(&mut self, count: usize) {
        self.begin_job(String::new());
        self.bar.inc(count as u64);
    }

    /// Counts a job that failed, and tells why.
    pub(crate) fn job_failed(&mut self, reason: &str) {
        self.bar.suspend(|| log_error(reason));
        if let Some(jobs) = &mut self.jobs {
            jobs.failed += 1;
            self.bar.set_message(format!(", {} failed", jobs.failed));
        }
    }

    /// Prints the result of a job.
    pub(crate) fn print(&self, line: &str) -> Result<()> {
        self.bar.suspend(|| print_line(line))
    }

    /// The rows of each evaluation of the current job.
    pub(crate) fn evaluations(&self) -> Vec<usize> {
        let own = self.pictures.iter().chain([&self.common]);
        own.flat_map(|own| own.evaluations.clone()).collect()
    }

    /// Whether every value is kept for a dump.
    pub(crate) fn dumps(&self) -> bool {
        self.dumps
    }

    /// Suspends the progress line while `f` prints; its argument is whether to be quiet.
    pub(crate) fn suspended<T>(&self, f: impl FnOnce(bool) -> T) -> T {
        self.bar.suspend(|| f(self.report.quiet))
    }

    /// Prints a message to stderr, unless quiet. One of a job of a batch is a detail.
    pub(crate) fn note(&self, line: &str) {
        if self.job().is_empty() || self.report.verbose {
            self.told(line);
        }
    }

    /// Prints messages to stderr, unless quiet, for whoever has no console.
    pub(crate) fn notes(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (quiet, bar) = (self.report.quiet, (**self.bar).clone());
        move |line| {
            if !quiet {
                bar.suspend(|| log_line(line));
            }
        }
    }

    /// Prints a message to stderr, unless quiet or told before.
    pub(crate) fn note_once(&self, line: &str) {
        if self.is_new(line) {
            self.note(line);
        }
    }

    /// Prints a warning to stderr, unless quiet; each one once, of as many as are kept.
    pub(crate) fn warn(&self, line: &str) {
        if self.is_new(line) {
            self.told(&format!("{}warning: {line}", self.job()));
        }
    }

    /// Whether a line was not told before.
    fn is_new(&self, line: &str) -> bool {
        let mut once = self.once.borrow_mut();
        once.len() < MAX_WARNINGS && once.insert(line.into())
    }

    /// Prints a message to stderr if verbose.
    pub(crate) fn detail(&self, line: &str) {
        if self.report.verbose {
            self.told(line);
        }
    }

    fn told(&self, line: &str) {
        if !self.report.quiet {
            self.bar.suspend(|| log_line(line));
        }
    }

    /// The name of the current job of a batch.
    fn job(&self) -> &str {
        self.jobs.as_ref().map_or("", |jobs| &jobs.label)
    }

    /// The record of the current picture.
    fn record(&mut self) -> &mut Record {
        self.pictures.last_mut().unwrap_or(&mut self.common)
    }

    /// Removes the progress line.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Removes the progress line and reports the evaluations.
    pub(crate) fn finish(&self) {
        self.clear();
        let seconds = self.began.elapsed().as_secs_f64();
        self.detail(&format!("{seconds:7.1} s  done; {}", self.count()));
    }

    /// Writes the values of a picture, counted from 0, and those common to all
    /// pictures to `file`, if given.
    pub(crate) fn write_dump(
        &self,
        file: Option<&Path>,
        picture: usize,
        existing: Existing,
    ) -> icd::Result<()> {
        let Some(file) = file else {
            return Ok(());
        };
        let mut values = self.common.values.clone();
        if let Some(own) = self.pictures.get(picture) {
            values.extend(own.values.clone());
        }
        let values: Tensors = values.into_iter().collect();
        write_tensors(file, &values, HashMap::new(), existing)
    }

    /// Prints the result of a picture, counted from 0: the file name, or a JSON
    /// object with the facts. Nothing is printed if the picture went to stdout.
    pub(crate) fn result(&self, output: &Path, picture: usize, mut facts: Value) -> Result<()> {
        if output::is_stdout(output) {
            return Ok(());
        }
        let own = self.pictures.get(picture).unwrap_or(&self.common);
        facts["output"] = json!(output.to_string_lossy());
        facts["evaluations"] = json!(own.evaluations);
        facts["seconds"] = json!(self.began.elapsed().as_secs_f64());
        print_result(self.report.json, &facts, output.display().to_string())
    }

    /// All evaluations as text.
    fn count(&self) -> String {
        let own = self.pictures.iter().chain([&self.common]);
        let rows: Vec<_> = own.flat_map(|own| own.evaluations.clone()).collect();
        format!("network evaluations: {}", count(&rows))
    }
}

/// Evaluations of so many rows each as text: "4 of 1 row, 4 of 2 rows".
pub(crate) fn count(evaluations: &[usize]) -> String {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for &rows in evaluations {
        *counts.entry(rows).or_default() += 1;
    }
    let words = counts.iter().map(|(rows, count)| match rows {
        1 => format!("{count} of 1 row"),
        rows => format!("{count} of {rows} rows"),
    });
    words.collect::<Vec<_>>().join(", ")
}

impl Observer for Console {
    fn observe(&mut self, event: Event) {
        match event {
            Event::Begins(what) => {
                if self.jobs.is_none() {
                    self.bar.set_style(style(WAITING));
                    self.bar.set_message(what);
                }
                let seconds = self.began.elapsed().as_secs_f64();
                self.detail(&format!("{seconds:7.1} s  {what}"));
            }
            Event::Picture(index) => self.pictures.resize(index + 1, Record::default()),
            Event::Evaluated { step, of, rows } => {
                self.record().evaluations.push(rows);
                if self.jobs.is_none() {
                    self.bar.set_style(style(STEPPING));
                    self.bar.set_length(of as u64);
                    self.bar.set_position(step as u64 + 1);
                }
            }
            Event::Value(name, value) => {
                if self.dumps {
                    self.record().values.insert(name.into(), value.clone());
                }
            }
        }
    }

    fn wants_values(&self) -> bool {
        self.dumps
    }
}
