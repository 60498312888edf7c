//! What is told of jobs.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{runner::Outcome, task::Task};
use crate::cli::{Console, ui::lines::foreign};

/// How the lines of a batch are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The names of new results.
    Names,
    /// An object for each job.
    Objects,
    /// Nothing: they are a part of something else.
    Nothing,
}

/// Tells on stdout how a job ended.
pub(crate) fn tell(told: Told, task: &Task, outcome: &Outcome, console: &Console) -> Result<()> {
    match (told, outcome) {
        (Told::Objects, outcome) => console.print(&object(task, outcome).to_string()),
        (Told::Names, Outcome::Done(_)) => {
            let mut files = task.files.iter();
            files.try_for_each(|file| console.print(&file.display().to_string()))
        }
        (Told::Names | Told::Nothing, _) => Ok(()),
    }
}

/// A job that ended as an object.
pub(crate) fn object(task: &Task, outcome: &Outcome) -> Value {
    let names = task.files.iter().map(|file| file.to_string_lossy());
    let mut object = json!({ "line": task.line, "outputs": names.collect::<Vec<_>>() });
    match outcome {
        Outcome::Done(effort) => {
            object["status"] = json!("done");
            object["seconds"] = json!(effort.seconds);
            object["evaluations"] = json!(effort.evaluations);
        }
        Outcome::Finished => object["status"] = json!("finished"),
        Outcome::Failed(reason) => {
            object["status"] = json!("failed");
            object["error"] = json!(reason);
        }
    }
    object
}

/// A line that is no job as an object.
pub(crate) fn refused(line: usize, reason: &str) -> Value {
    json!({ "line": line, "status": "failed", "outputs": [], "error": reason })
}

/// A fault with its line, as it is told on stderr.
pub(crate) fn located(manifest: &Path, line: usize, reason: &str) -> String {
    let name = foreign(&manifest.to_string_lossy());
    format!("{name}:{line}: {reason}")
}
