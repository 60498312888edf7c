//! What the user sees: progress, downloads, dry runs, comparison and attention sheets.

pub(crate) mod console;
pub(crate) mod download;
pub(crate) mod dry_run;
pub(crate) mod hints;
pub(crate) mod lines;
pub(crate) mod progress;
pub(crate) mod prompts;
pub(crate) mod sheets;
pub(crate) mod speed;
pub(crate) mod warnings;
