//! The run of a manifest: all jobs are checked, then those that are left run.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use icd::batch::{Failures, Fault, Job};

use super::{
    jobs::{Line, Refused, walks},
    report::{Told, located, refused, tell},
    runner::{Outcome, Ready, Runner},
    task::Task,
    workers::{Maker, share},
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

    /// Runs the jobs of these lines, on other devices too if there are any; an end with code 1
    /// if some fail.
    pub(crate) fn run(
        mut self,
        lines: Vec<Line>,
        runner: &mut Runner,
        others: &[Device],
    ) -> Result<()> {
        self.total = lines.len();
        let ready = self.checked(lines, runner);
        let ran = ready.and_then(|ready| self.ran(ready, runner, others));
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
        runner.console.begin_job(label(self.manifest, &task));
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
        self.settle(&task, &outcome, &mut runner.console)?;
        Ok(None)
    }

    fn refuse(&mut self, line: &Refused, runner: &mut Runner) -> Result<()> {
        let (line, Fault { kept, reason }) = (line.line, &line.fault);
        self.fail(line, kept, reason, &mut runner.console)?;
        match self.told {
            Told::Objects => runner.console.print(&refused(line, reason).to_string()),
            Told::Names | Told::Nothing => Ok(()),
        }
    }

    /// Runs the jobs that are left, a model after another.
    fn ran(&mut self, ready: Vec<Ready>, runner: &mut Runner, others: &[Device]) -> Result<()> {
        runner.console.begin_jobs("done", ready.len());
        let walks = walks(ready, runner.most_targets());
        if !others.is_empty() {
            return self.shared(walks, runner, others);
        }
        for walk in walks {
            let outcomes = walked(&walk, self.manifest, runner)?;
            self.settle_walk(&walk, &outcomes, &mut runner.console)?;
        }
        Ok(())
    }

    /// Runs walks on several devices, those of one inversion on the same one.
    fn shared(
        &mut self,
        walks: Vec<Vec<Ready>>,
        runner: &mut Runner,
        others: &[Device],
    ) -> Result<()> {
        let (seed, manifest) = (runner.seed(), self.manifest);
        let maker = |device: &Device| -> Maker<Group, (Vec<Ready>, Vec<Outcome>)> {
            let (device, seed) = (device.clone(), seed.clone());
            Box::new(move || {
                let mut runner = seed.runner(device);
                Ok(Box::new(move |group: Group, tell| {
                    for walk in group {
                        let outcomes = walked(&walk, manifest, &mut runner)?;
                        tell((walk, outcomes));
                    }
                    Ok(())
                }))
            })
        };
        let devices = [runner.device()].into_iter().chain(others);
        let makers = devices.map(maker).collect();
        share(groups(walks), makers, |(walk, outcomes)| {
            self.settle_walk(&walk, &outcomes, &mut runner.console)
        })
    }

    fn settle_walk(
        &mut self,
        walk: &[Ready],
        outcomes: &[Outcome],
        console: &mut Console,
    ) -> Result<()> {
        for (ready, outcome) in walk.iter().zip(outcomes) {
            self.settle(&ready.task, outcome, console)?;
        }
        console.end_jobs(walk.len());
        Ok(())
    }

    /// Counts and tells how a job ended.
    fn settle(&mut self, task: &Task, outcome: &Outcome, console: &mut Console) -> Result<()> {
        match outcome {
            Outcome::Done(_) => self.done += 1,
            Outcome::Finished => self.finished += 1,
            Outcome::Failed(reason) => self.fail(task.line, &task.kept, reason, console)?,
        }
        tell(self.told, task, outcome, console)
    }

    fn fail(&mut self, line: usize, kept: &Job, reason: &str, console: &mut Console) -> Result<()> {
        console.job_failed(&located(self.manifest, line, reason));
        let added = self.failures.add(line, kept, reason);
        added.context(Exit::Machine)
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

/// Walks of one inversion.
type Group = Vec<Vec<Ready>>;

/// Walks in the order in which they run, those of one model and inversion together.
fn groups(walks: Vec<Vec<Ready>>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for walk in walks {
        let last = groups.last_mut();
        let shared = |walk: &[Ready]| walk[0].task.shared();
        match last.filter(|group| shared(&group[0]) == shared(&walk)) {
            Some(group) => group.push(walk),
            None => groups.push(vec![walk]),
        }
    }
    groups
}

/// Runs jobs that are walked together.
fn walked(walk: &[Ready], manifest: &Path, runner: &mut Runner) -> Result<Vec<Outcome>> {
    runner.go_on_to(&walk[0].task);
    runner.console.begin_job(label(manifest, &walk[0].task));
    runner.run(walk)
}

fn label(manifest: &Path, task: &Task) -> String {
    located(manifest, task.line, "")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, num::NonZeroUsize};

    use icd::batch::{Disk, Ledger, Part, entries};
    use serde_json::json;

    use super::*;
    use crate::cli::{
        ReportArgs,
        batch::{
            jobs::{of_shard, understood},
            parser::Parser,
            results::{Results, Taken},
        },
    };

    /// The results and the ledger of jobs on a CPU and these devices.
    fn made(jobs: &[serde_json::Value], others: &[Device]) -> (BTreeMap<String, Vec<u8>>, usize) {
        let home = tempfile::tempdir().unwrap();
        let command = crate::cli::command();
        let typed = [
            "icd",
            "batch",
            "jobs",
            "--output-dir",
            "out",
            "--size",
            "64",
        ];
        let typed = typed.iter().chain(&["--model", "tests/data/sd"]);
        let given = command.clone().try_get_matches_from(typed).unwrap();
        let (name, given) = given.subcommand().unwrap();
        let own = command.find_subcommand(name).unwrap();
        let mut parser = Parser::new(&command, (own, given), (home.path(), &[]));
        let text: Vec<_> = jobs.iter().map(ToString::to_string).collect();
        let manifest = Path::new("jobs.jsonl");
        let lines = entries(manifest, text.join("\n").as_bytes()).unwrap();
        let lines = of_shard(understood(lines, &mut parser), None).unwrap();
        let report = ReportArgs {
            json: false,
            quiet: true,
            verbose: false,
        };
        let results = Results::read(home.path(), Taken::Fails).unwrap();
        let ledger = Ledger::open(&Disk, home.path(), Part::Whole).unwrap();
        let mut runner = Runner::new(
            Device::Cpu,
            NonZeroUsize::new(2),
            results.with_ledger(ledger),
            Console::of_jobs(report),
        );
        let failures = Failures::begin(&Disk, home.path(), Part::Whole, manifest).unwrap();
        let batch = Batch::new(manifest, failures, Told::Names);
        batch.run(lines, &mut runner, others).unwrap();
        let read = |name: &str| fs::read(home.path().join(name)).unwrap();
        let names = jobs.iter().map(|job| job["output"].as_str().unwrap());
        let noted = read("ledger.jsonl").split(|byte| *byte == b'\n').count() - 1;
        (
            names.map(|name| (name.to_owned(), read(name))).collect(),
            noted,
        )
    }

    #[test]
    fn two_workers_make_what_one_makes() {
        let targets = ["a photo of a dog", "a photo of a cat"];
        let job = |n: usize| {
            json!({ "image": "tests/data/square.png", "src_prompt": "a photo of a bird",
                "tgt_prompt": targets[n % 2], "seed": n / 2, "output": format!("{n}.png") })
        };
        let jobs: Vec<_> = (0..6).map(job).collect();
        let (alone, noted) = made(&jobs, &[]);
        assert_eq!((alone.len(), noted), (6, 6));
        assert_eq!(made(&jobs, &[Device::Cpu]), (alone, noted));
    }
}
