//! The models of a batch, and the run of its jobs on them.

use std::{collections::HashMap, num::NonZeroUsize, time::Instant};

use anyhow::{Context, Result};
use candle_core::Device;
use icd::pipeline::Pipeline;

use super::{
    check::{self, Checked},
    fingerprint::Fingerprint,
    parser::reason,
    reader::Reader,
    results::{Found, Results},
    task::{Task, Work},
    walk::{Inversions, Run},
};
use crate::cli::{
    Console,
    commands::edit::EditArgs,
    exit::{Exit, is_of_machine},
    ui::console::SharedConsole,
};

/// The most rows of an evaluation, the source's included, unless the user says otherwise.
const MAX_ROWS: usize = 8;

/// A job that was checked and is not finished.
pub(crate) struct Ready {
    pub(crate) task: Task,
    /// What each result will state of itself.
    pub(crate) fingerprints: Vec<Fingerprint>,
    /// The results that are not finished.
    pub(crate) todo: Vec<usize>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Effort),
    /// It was finished before.
    Finished,
    Failed(String),
}

/// What a job took. Jobs that are walked together share their evaluations and their time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effort {
    pub(crate) seconds: f64,
    pub(crate) evaluations: Vec<usize>,
}

/// A model whose networks are loaded when they are needed, and then kept.
struct Opened {
    pipeline: Pipeline,
    inversions: Inversions,
}

/// What the workers on a batch are made of, each on its own thread.
#[derive(Clone)]
pub(crate) struct Seed {
    max_rows: Option<NonZeroUsize>,
    results: Results,
    console: SharedConsole,
}

impl Seed {
    /// A worker on a device.
    pub(crate) fn runner(self, device: Device) -> Runner {
        Runner::new(device, self.max_rows, self.results, self.console.console())
    }
}

/// Checks jobs and runs them.
pub(crate) struct Runner {
    device: Device,
    max_rows: Option<NonZeroUsize>,
    opened: HashMap<String, Result<Opened, String>>,
    /// The model whose jobs run.
    current: Option<String>,
    reader: Reader,
    pub(crate) results: Results,
    pub(crate) console: Console,
}

impl Runner {
    pub(crate) fn new(
        device: Device,
        max_rows: Option<NonZeroUsize>,
        results: Results,
        console: Console,
    ) -> Self {
        Self {
            device,
            max_rows,
            opened: HashMap::new(),
            current: None,
            reader: Reader::default(),
            results,
            console,
        }
    }

    /// What workers on the same results are made of.
    pub(crate) fn seed(&self) -> Seed {
        Seed {
            max_rows: self.max_rows,
            results: self.results.clone(),
            console: self.console.shared(),
        }
    }

    /// The pipeline of a job's model; loads no network.
    pub(crate) fn pipeline(&mut self, task: &Task) -> Result<&Pipeline> {
        Ok(&self.opened(task)?.pipeline)
    }

    fn opened(&mut self, task: &Task) -> Result<&mut Opened> {
        let key = task.work.model_key();
        if !self.opened.contains_key(&key) {
            let opened = self.open(task);
            // One that cannot be opened is not tried for each of its jobs.
            let opened = self.settled(opened)?;
            self.opened.insert(key.clone(), opened);
        }
        let opened = self.opened.get_mut(&key).context("a model")?;
        opened
            .as_mut()
            .map_err(|reason| anyhow::Error::msg(reason.clone()))
    }

    fn open(&self, task: &Task) -> Result<Opened> {
        let model = task.work.model();
        let pipeline = model.open_on(self.device.clone(), &self.console)?;
        Ok(Opened {
            pipeline: match self.max_rows {
                Some(rows) => pipeline.with_max_rows(rows),
                None => pipeline,
            },
            inversions: Inversions::default(),
        })
    }

    /// Frees all models.
    pub(crate) fn close(&mut self) {
        self.opened.clear();
        self.current = None;
        self.forget_files();
    }

    /// Frees all models but that of a job.
    pub(crate) fn close_others(&mut self, task: &Task) {
        let key = task.work.model_key();
        self.opened.retain(|open, _| *open == key);
    }

    /// Goes on to a job's model, and frees the one before.
    pub(crate) fn go_on_to(&mut self, task: &Task) {
        let key = task.work.model_key();
        if let Some(before) = self.current.replace(key.clone())
            && before != key
        {
            self.opened.remove(&before);
        }
    }

    /// Forgets the files that were read: they may change before the next job.
    pub(crate) fn forget_files(&mut self) {
        self.reader = Reader::default();
    }

    /// Checks a job. The outer error is one of the machine.
    pub(crate) fn check(&mut self, task: &Task) -> Result<Result<Checked, String>> {
        let checked = self.checked(task);
        self.settled(checked)
    }

    fn checked(&mut self, task: &Task) -> Result<Checked> {
        self.opened(task)?;
        let Some(Ok(opened)) = self.opened.get(&task.work.model_key()) else {
            anyhow::bail!("no model");
        };
        let files = (&mut self.reader, &self.results);
        check::checked(task, &opened.pipeline, files, &self.console)
    }

    /// Notes the finished results of a job that no ledger knows.
    pub(crate) fn note_finished(&mut self, task: &Task, checked: &Checked) -> Result<()> {
        for (index, fingerprint) in checked.fingerprints.iter().enumerate() {
            if !checked.todo.contains(&index) {
                let noted = self.results.note(task, index, fingerprint);
                noted.context(Exit::Machine)?;
            }
        }
        Ok(())
    }

    /// Runs jobs that are walked together; how each ended. The error is one of the machine.
    pub(crate) fn run(&mut self, walk: &[Ready]) -> Result<Vec<Outcome>> {
        let began = Instant::now();
        let made = self.walked(walk);
        let outcome = self.outcome(made, began)?;
        match (walk, &outcome) {
            // Another worker was faster.
            ([ready], Outcome::Failed(_)) if self.left(ready).is_ok_and(|left| left.is_empty()) => {
                Ok(vec![Outcome::Finished])
            }
            // Not all need be at fault.
            ([_, _, ..], Outcome::Failed(_)) => {
                walk.iter().map(|ready| self.alone(ready)).collect()
            }
            _ => Ok(walk.iter().map(|_| outcome.clone()).collect()),
        }
    }

    /// Runs a job of a walk that failed: what the walk made of it is kept.
    fn alone(&mut self, ready: &Ready) -> Result<Outcome> {
        let (began, left) = (Instant::now(), self.left(ready));
        let made = left.and_then(|left| match left.is_empty() {
            true => Ok(()),
            false => self.one(ready, &left),
        });
        self.outcome(made, began)
    }

    /// The results of a job that are still not finished.
    fn left(&self, ready: &Ready) -> Result<Vec<usize>> {
        let mut left = Vec::new();
        for &index in &ready.todo {
            let wanted = &ready.fingerprints[index];
            if self.results.found(&ready.task, index, wanted)? != Found::Finished {
                left.push(index);
            }
        }
        Ok(left)
    }

    fn outcome(&self, made: Result<()>, began: Instant) -> Result<Outcome> {
        Ok(match self.settled(made)? {
            Ok(()) => Outcome::Done(Effort {
                seconds: began.elapsed().as_secs_f64(),
                evaluations: self.console.evaluations(),
            }),
            Err(reason) => Outcome::Failed(reason),
        })
    }

    fn walked(&mut self, walk: &[Ready]) -> Result<()> {
        match walk {
            [] => Ok(()),
            [ready] => self.one(ready, &ready.todo),
            walk => {
                let edits = walk.iter().filter_map(|ready| Some((ready.edit()?, ready)));
                let edits: Vec<_> = edits
                    .map(|(args, ready)| (args, ready, &ready.todo[..]))
                    .collect();
                self.on(&walk[0].task)?.edit(&edits)
            }
        }
    }

    fn one(&mut self, ready: &Ready, todo: &[usize]) -> Result<()> {
        let mut run = self.on(&ready.task)?;
        match &ready.task.work {
            Work::Edit(args) => run.edit(&[(args.as_ref(), ready, todo)]),
            Work::Generate(args) => run.generate(args, ready, todo),
            Work::Invert(args) => run.invert(args, ready),
        }
    }

    fn on(&mut self, task: &Task) -> Result<Run<'_>> {
        self.opened(task)?;
        let Some(Ok(opened)) = self.opened.get_mut(&task.work.model_key()) else {
            anyhow::bail!("no model");
        };
        Ok(Run {
            pipeline: &opened.pipeline,
            inversions: &mut opened.inversions,
            reader: &mut self.reader,
            results: &self.results,
            console: &mut self.console,
        })
    }

    /// The device of all models.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The most targets that are walked together. On a CPU the rows of an evaluation do not
    /// change each other's bytes; elsewhere each job is walked alone, as by its own command.
    pub(crate) fn most_targets(&self) -> usize {
        let rows = self.max_rows.map_or(MAX_ROWS, NonZeroUsize::get);
        match self.device.is_cpu() {
            true => rows.saturating_sub(1).max(1),
            false => 1,
        }
    }

    /// An error of a job as its reason; one of the machine ends the batch.
    fn settled<T>(&self, result: Result<T>) -> Result<Result<T, String>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(error) if is_of_machine(&error, self.results.folder()) => {
                Err(error.context(Exit::Machine))
            }
            Err(error) => Ok(Err(reason(&error))),
        }
    }
}

impl Ready {
    pub(crate) fn new(task: Task, checked: Checked) -> Self {
        Self {
            task,
            fingerprints: checked.fingerprints,
            todo: checked.todo,
        }
    }

    pub(crate) fn edit(&self) -> Option<&EditArgs> {
        match &self.task.work {
            Work::Edit(args) => Some(args.as_ref()),
            _ => None,
        }
    }
}
