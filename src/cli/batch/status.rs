//! What is done, failed and missing of a manifest, over all shards: from its ledgers and lists
//! of failures. Neither models nor inputs are looked at.

use std::{collections::HashSet, path::PathBuf};

use anyhow::Result;
use icd::batch::{Entry, Failures, entries};
use serde_json::json;

use super::{jobs::Line, parser::Parser, results::Results, task::Task};
use crate::cli::{
    ReportArgs,
    exit::Exit,
    ui::lines::{foreign, print_line},
};

/// Prints the status of the jobs of these lines; an end with code 1 unless all are done.
pub(crate) fn print(
    lines: &[Line],
    results: &Results,
    parser: &mut Parser,
    report: ReportArgs,
) -> Result<()> {
    let listed = failed(results, parser)?;
    let (mut done, mut failed, mut missing) = (0, 0, Vec::new());
    for line in lines {
        match line {
            Ok(task) if is_done(task, results)? => done += 1,
            Ok(task) if task.files.iter().any(|file| listed.contains(file)) => failed += 1,
            Ok(task) => missing.push(task),
            Err(_) => failed += 1,
        }
    }
    if report.json {
        let lines: Vec<_> = missing.iter().map(|task| task.line).collect();
        let status = json!({ "jobs": lines_count(done, failed, missing.len()), "done": done,
            "failed": failed, "missing": missing.len(), "missing_lines": lines });
        print_line(&status.to_string())?;
    } else {
        print_line(&format!(
            "jobs: {}",
            lines_count(done, failed, missing.len())
        ))?;
        print_line(&format!(
            "done: {done}\nfailed: {failed}\nmissing: {}",
            missing.len()
        ))?;
        for task in missing.iter().filter(|_| report.verbose) {
            let names = task.files.iter().map(|file| foreign(&results.name(file)));
            let names = names.collect::<Vec<_>>().join(", ");
            print_line(&format!("missing: line {}: {names}", task.line))?;
        }
    }
    match failed + missing.len() {
        0 => Ok(()),
        _ => Err(Exit::JobsFailed(None).into()),
    }
}

fn lines_count(done: usize, failed: usize, missing: usize) -> usize {
    done + failed + missing
}

fn is_done(task: &Task, results: &Results) -> Result<bool> {
    for file in &task.files {
        if !results.is_listed(task, file)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The results of the jobs in all lists of failures of a folder.
fn failed(results: &Results, parser: &mut Parser) -> Result<HashSet<PathBuf>> {
    let mut files = HashSet::new();
    for list in Failures::all(results.storage(), results.folder())? {
        let name = results.folder().join("failed.jsonl");
        for entry in entries(&name, &list)? {
            files.extend(files_of(entry, parser));
        }
    }
    Ok(files)
}

fn files_of(entry: Entry, parser: &mut Parser) -> Vec<PathBuf> {
    parser.task(entry).map_or(Vec::new(), |task| task.files)
}
