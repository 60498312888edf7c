//! A job, and a line of a manifest that is none.

use serde_json::{Map, Value};

use crate::error::abridged;

/// The settings of a job, by key.
pub type Job = Map<String, Value>;

/// What a manifest holds at a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The line where it begins, counted from 1; of a folder the number of the picture.
    pub line: usize,
    /// The job, or why there is none.
    pub content: Result<Job, Fault>,
}

/// Something in the place of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What can be told of it in a list of failures: the keys of a job that lacks something,
    /// or its `text`.
    pub kept: Job,
    /// What is wrong, and a remedy.
    pub reason: String,
}

/// Keys of a list of failures that are no settings.
pub(super) const TEXT: &str = "text";
pub(super) const ERROR: &str = "error";
pub(super) const LINE: &str = "line";

/// Most bytes that are kept of a line which is no job.
const MAX_KEPT: usize = 4096;

impl Fault {
    /// A line or record that is no job.
    pub(super) fn of_line(line: &[u8], reason: impl Into<String>) -> Self {
        let text = String::from_utf8_lossy(line);
        let text = abridged(text.trim_end(), MAX_KEPT).into_owned();
        let kept = [(TEXT.to_owned(), Value::String(text))];
        Self {
            kept: kept.into_iter().collect(),
            reason: reason.into(),
        }
    }
}
