//! Progress, messages and results of a run.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{ErrorKind, Write, stderr, stdout},
    ops::Deref,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use candle_core::Tensor;
use clap::builder::Styles;
use icd::{
    diffusion::{Event, Observer},
    error::abridged,
    io::{Existing, Tensors, write_tensors},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{ReportArgs, args::output};

/// Most bytes of a message and of one of its lines: it may quote what a stranger wrote.
const MAX_MESSAGE: usize = 4096;
const MAX_LINE: usize = 350;
/// Most warnings that are told.
const MAX_WARNINGS: usize = 1000;
/// Most bytes of a stranger's text in a line.
const MAX_FOREIGN: usize = 1000;

/// Writes a message to stderr.
pub(crate) fn log_line(message: &str) {
    // A closed stderr is not an error.
    let _ = writeln!(stderr(), "{}", harmless(&short(message)));
}

/// A message of which each line can be read, and none floods a terminal.
pub(crate) fn short(message: &str) -> String {
    let message = abridged(message, MAX_MESSAGE);
    let lines: Vec<_> = message
        .lines()
        .map(|line| abridged(line, MAX_LINE))
        .collect();
    lines.join("\n")
}

/// Writes the JSON object of a failure to stderr, on one line.
pub(crate) fn log_failure(message: &str, code: u8) {
    let object = json!({ "error": { "message": short(message), "code": code } });
    let _ = writeln!(stderr(), "{}", harmless(&object.to_string()));
}

/// Writes an error to stderr, with a label in the colour of clap's.
pub(crate) fn log_error(message: &str) {
    let style = Styles::styled();
    let style = style.get_error();
    let message = harmless(&short(message));
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {message}");
}

/// Writes a line, of text or JSON, to stdout.
pub(crate) fn print_line(line: &str) -> Result<()> {
    print_bytes(format!("{}\n", harmless(line)).as_bytes())
}

/// A text that a terminal does not obey: control characters and those that change the
/// direction of writing are escaped, as in JSON.
pub(crate) fn harmless(text: &str) -> String {
    let directs = |char| matches!(char, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let one = |char: char| match char {
        '\n' | '\t' => char.to_string(),
        _ if char.is_control() || directs(char) => format!("\\u{:04x}", u32::from(char)),
        _ => char.to_string(),
    };
    text.chars().map(one).collect()
}

/// A stranger's text, such as a licence or the name of a file, as a part of a line: cut,
/// harmless and without line breaks, which could forge lines.
pub(crate) fn foreign(text: &str) -> String {
    one_line(&abridged(text, MAX_FOREIGN))
}

fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Writes a result to stdout: the facts as a JSON object, or else its text.
pub(crate) fn print_result(as_json: bool, facts: &Value, text: String) -> Result<()> {
    print_line(&if as_json { facts.to_string() } else { text })
}

/// Writes a fact to stdout.
pub(crate) fn print_fact(name: &str, value: &Value) -> Result<()> {
    match value {
        Value::String(text) => print_line(&format!("{}: {}", one_line(name), one_line(text))),
        other => print_line(&format!("{}: {other}", one_line(name))),
    }
}

/// Writes bytes to stdout. A closed pipe is not an error.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to stdout")
        }
        _ => Ok(()),
    }
}

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

/// A progress bar that is removed with the last console that has it, on errors too.
struct Bar(ProgressBar);

impl Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.0
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish_and_clear();
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
            true => ProgressBar::hidden(),
            false => spinner(),
        };
        Self::with_bar(report, dumps, Arc::new(Bar(bar)))
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
        let (quiet, bar) = (self.report.quiet, self.bar.0.clone());
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

/// The progress template for work of unknown length.
const WAITING: &str = "{spinner} {msg} {elapsed}";
/// The progress template for sampling steps.
const STEPPING: &str = "{spinner} {msg} {bar:24} {pos}/{len} {elapsed}";
/// The progress template for the jobs of a batch.
const JOBS: &str = "{spinner} {prefix} {bar:24} {pos}/{len}, {per_sec}, {eta} to go{msg}";

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A progress bar of this template and length, 0 if it is not known yet.
pub(crate) fn progress_bar(template: &str, length: u64) -> ProgressBar {
    ProgressBar::new(length).with_style(style(template))
}

fn spinner() -> ProgressBar {
    let bar = progress_bar(WAITING, 0);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_message_is_long() {
        let message = format!("a {}: it is missing\nsee --help", "x".repeat(3000));
        let told = short(&message);
        assert!(told.lines().all(|line| line.len() < 400), "{told}");
        assert!(told.starts_with("a xxx") && told.contains("it is missing\n"));
        assert!(told.ends_with("see --help"));
        assert_eq!(short("a bird\na dog"), "a bird\na dog");
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        let text = "a\u{1b}]0;title\u{7}\u{9b}2J\u{202e}b\tc\nd é 猫";
        let printed = "a\\u001b]0;title\\u0007\\u009b2J\\u202eb\tc\nd é 猫";
        assert_eq!(harmless(text), printed);
        assert_eq!(foreign("mit\nkind: x\u{1b}"), "mit\\nkind: x\\u001b");
        let line = json!({ "text": text }).to_string();
        assert!(!harmless(&line).contains(char::is_control));
        let read: Value = serde_json::from_str(&harmless(&line)).unwrap();
        assert_eq!(read["text"], text);
    }
}
