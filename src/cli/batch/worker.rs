//! Jobs that another program sends on stdin, each answered by a line on stdout as soon as it
//! ended and before the next one is read.

use std::io::stdin;

use anyhow::{Context, Result};
use icd::batch::{Entry, Failures, Fault, json_entry, read_line};
use serde_json::Value;

use super::{
    parser::Parser,
    report::{object, refused},
    runner::{Outcome, Ready, Runner},
    task::Task,
};

/// Serves jobs until stdin ends; the number of those that failed.
pub(crate) fn serve(
    runner: &mut Runner,
    parser: &mut Parser,
    failures: &mut Failures,
) -> Result<usize> {
    let (mut input, mut text, mut number) = (stdin().lock(), Vec::new(), 0);
    while read_line(&mut input, &mut text).context("reading jobs from stdin")? {
        number += 1;
        if let Some(entry) = json_entry(number, &text) {
            let answer = answered(entry, runner, parser, failures)?;
            runner.console.print(&answer.to_string())?;
        }
    }
    Ok(failures.count())
}

fn answered(
    entry: Entry,
    runner: &mut Runner,
    parser: &mut Parser,
    failures: &mut Failures,
) -> Result<Value> {
    let line = entry.line;
    let task = match parser.task(entry) {
        Ok(task) => task,
        Err(Fault { kept, reason }) => {
            failures.add(line, &kept, &reason)?;
            return Ok(refused(line, &reason));
        }
    };
    runner.forget_files();
    runner.close_others(&task);
    runner.console.begin_job(format!("line {line}: "));
    let (task, outcome) = done(task, runner)?;
    runner.console.begin_job(String::new());
    if let Outcome::Failed(reason) = &outcome {
        failures.add(line, &task.kept, reason)?;
    }
    Ok(object(&task, &outcome))
}

/// Checks and runs a job.
fn done(task: Task, runner: &mut Runner) -> Result<(Task, Outcome)> {
    let checked = match runner.check(&task)? {
        Ok(checked) => checked,
        Err(reason) => return Ok((task, Outcome::Failed(reason))),
    };
    if checked.todo.is_empty() {
        runner.note_finished(&task, &checked)?;
        return Ok((task, Outcome::Finished));
    }
    let ready = [Ready::new(task, checked)];
    let mut outcomes = runner.run(&ready)?;
    let [ready] = ready;
    Ok((ready.task, outcomes.remove(0)))
}
