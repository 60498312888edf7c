//! The page of tables, in Markdown.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    generation,
    world::{HELD_OUT, Pair},
};

/// A page that grows from top to bottom.
pub(crate) struct Page(String);

/// A line of a table: what it is about, and its values.
pub(crate) struct Row(Vec<String>);

impl Row {
    pub(crate) fn new(name: &str, values: impl IntoIterator<Item = String>) -> Self {
        Self([name.to_owned()].into_iter().chain(values).collect())
    }
}

impl Page {
    pub(crate) fn new(model: &str, scenes: u64, pairs: u64) -> Self {
        Self(format!(
            "# Evaluation of `{model}`\n\nHeld-out scenes: {scenes} of seed {:#x} for inversion, \
             {pairs} pairs of seed {:#x} for edits, {pairs} captions of seed {:#x} for generation.\n",
            HELD_OUT,
            Pair::SEED,
            generation::SEED
        ))
    }

    pub(crate) fn section(&mut self, title: &str) {
        self.line(&format!("## {title}"));
    }

    pub(crate) fn line(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}"); // a string takes all that is written
    }

    pub(crate) fn table<'a>(&mut self, head: impl IntoIterator<Item = &'a str>, rows: &[Row]) {
        let head: Vec<_> = head.into_iter().collect();
        let rule = vec!["---:"; head.len() - 1].join("|");
        self.line(&format!("| {} |\n|---|{rule}|", head.join(" | ")));
        for Row(cells) in rows {
            let _ = writeln!(self.0, "| {} |", cells.join(" | "));
        }
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        fs::write(file, &self.0).with_context(|| file.display().to_string())
    }
}
