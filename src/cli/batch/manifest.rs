//! The run of a manifest: all jobs are checked, then those that are left run.

use std::path::Path;

use anyhow::{Context, Result};
use icd::batch::{Failures, Fault, Job};

use super::{
    jobs::{Line, Refused, walks},
    report::{Told, located, refused, tell},
    runner::{Outcome, Ready, Runner},
    task::Task,
};
use crate::cli::{Console, exit::Exit};

/// The jobs of a manifest while they run.
pub(crate) struct Batch<'a> {
    manifest: &'a Path,
    failures: Failures,
    told: Told,
    total: usize,
    done: usize,
    finished: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(manifest: &'a Path, failures: Failures, told: Told) -> Self {
        Self {
            manifest,
            failures,
            told,
            total: 0,
            done: 0,
            finished: 0,
        }
    }

    /// Runs the jobs of these lines; an end with code 1 if some fail.
    pub(crate) fn run(mut self, lines: Vec<Line>, runner: &mut Runner) -> Result<()> {
        self.total = lines.len();
        let ready = self.checked(lines, runner);
        let ran = ready.and_then(|ready| self.ran(ready, runner));
        runner.console.clear();
        self.ended(ran, &runner.console)
    }

    /// Checks all jobs: those that are not finished.
    fn checked(&mut self, lines: Vec<Line>, runner: &mut Runner) -> Result<Vec<Ready>> {
        runner.console.begin_jobs("checking", lines.len());
        let mut ready = Vec::new();
        for line in lines {
            match line {
                Ok(task) => ready.extend(self.check(task, runner)?),
                Err(refused) => self.refuse(&refused, runner)?,
            }
            runner.console.end_jobs(1);
        }
        runner.forget_files();
        Ok(ready)
    }

    /// The job, unless it fails or is finished.
    fn check(&mut self, task: Task, runner: &mut Runner) -> Result<Option<Ready>> {
        runner.go_on_to(&task);
        runner.console.begin_job(self.label(&task));
        let outcome = match runner.check(&task)? {
            Ok(checked) => {
                runner.note_finished(&task, &checked)?;
                if !checked.todo.is_empty() {
                    return Ok(Some(Ready::new(task, checked)));
                }
                Outcome::Finished
            }
            Err(reason) => Outcome::Failed(reason),
        };
        self.settle(&task, &outcome, runner)?;
        Ok(None)
    }

    fn refuse(&mut self, line: &Refused, runner: &mut Runner) -> Result<()> {
        let (line, Fault { kept, reason }) = (line.line, &line.fault);
        self.fail(line, kept, reason, runner)?;
        match self.told {
            Told::Objects => runner.console.print(&refused(line, reason).to_string()),
            Told::Names | Told::Nothing => Ok(()),
        }
    }

    /// Runs the jobs that are left, a model after another.
    fn ran(&mut self, ready: Vec<Ready>, runner: &mut Runner) -> Result<()> {
        runner.console.begin_jobs("done", ready.len());
        for walk in walks(ready, runner.most_targets()) {
            runner.go_on_to(&walk[0].task);
            runner.console.begin_job(self.label(&walk[0].task));
            let outcomes = runner.run(&walk)?;
            for (ready, outcome) in walk.iter().zip(&outcomes) {
                self.settle(&ready.task, outcome, runner)?;
            }
            runner.console.end_jobs(walk.len());
        }
        Ok(())
    }

    /// Counts and tells how a job ended.
    fn settle(&mut self, task: &Task, outcome: &Outcome, runner: &mut Runner) -> Result<()> {
        match outcome {
            Outcome::Done(_) => self.done += 1,
            Outcome::Finished => self.finished += 1,
            Outcome::Failed(reason) => self.fail(task.line, &task.kept, reason, runner)?,
        }
        tell(self.told, task, outcome, &runner.console)
    }

    fn fail(&mut self, line: usize, kept: &Job, reason: &str, runner: &mut Runner) -> Result<()> {
        let told = located(self.manifest, line, reason);
        runner.console.job_failed(&told);
        let added = self.failures.add(line, kept, reason);
        added.context(Exit::Machine)
    }

    fn label(&self, task: &Task) -> String {
        located(self.manifest, task.line, "")
    }

    /// Writes the list of failures, and tells how the batch ended.
    fn ended(self, ran: Result<()>, console: &Console) -> Result<()> {
        let (failed, list) = (self.failures.count(), self.failures.path().to_owned());
        let written = self.failures.finish().context(Exit::Machine);
        ran.and(written)?;
        let (total, done, finished) = (self.total, self.done, self.finished);
        console.note(&format!(
            "{total} jobs: {done} done, {finished} finished before, {failed} failed"
        ));
        if failed == 0 {
            return Ok(());
        }
        let told = format!("{failed} of {total} jobs failed: see {}", list.display());
        Err(Exit::JobsFailed(Some(told)).into())
    }
}
