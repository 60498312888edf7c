//! `icd model list`.

use std::fs;

use anyhow::Result;
use clap::Args;
use icd::{
    hub::{Cache, RequiredFile, repositories},
    model::{ModelChoice, PRESETS, required_files},
};
use indicatif::HumanBytes;
use serde_json::json;

use crate::cli::ui::lines::print_result;

/// Lists the presets and whether they are downloaded.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListArgs {
    /// Print one JSON object per model.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd model list
  icd model list --json";

/// The download state of a model.
struct State {
    name: &'static str,
    required_files: Vec<RequiredFile>,
    /// Required files that are present.
    here: usize,
    /// Their size in bytes.
    bytes: u64,
}

impl ListArgs {
    pub(crate) fn run(&self) -> Result<()> {
        PRESETS.into_iter().try_for_each(|name| {
            let state = State::of(name)?;
            print_result(self.json, &state.object(), state.lines())
        })
    }
}

impl State {
    fn of(name: &'static str) -> Result<Self> {
        let choice = ModelChoice::named(name);
        let cache = Cache::from_env();
        let required_files: Vec<_> = required_files(&choice)?
            .into_iter()
            .filter(|need| !need.optional)
            .collect();
        let files: Vec<_> = required_files
            .iter()
            .filter_map(|need| need.file(&cache))
            .collect();
        let sizes = files
            .iter()
            .filter_map(|file| Some(fs::metadata(file).ok()?.len()));
        Ok(Self {
            name,
            here: files.len(),
            bytes: sizes.sum(),
            required_files,
        })
    }

    fn word(&self) -> &'static str {
        match (self.required_files.len(), self.here) {
            (0, _) => "built in",
            (_, 0) => "not downloaded",
            (all, here) if all == here => "downloaded",
            _ => "partly downloaded",
        }
    }

    fn repositories(&self) -> Vec<String> {
        let all = repositories(&self.required_files).into_iter();
        all.map(ToString::to_string).collect()
    }

    /// Its name and state, followed by its sources.
    fn lines(&self) -> String {
        let size = match self.bytes {
            0 => String::new(),
            bytes => HumanBytes(bytes).to_string(),
        };
        let first = format!("{:6}  {:19}  {size}", self.name, self.word());
        let below = self.repositories().into_iter();
        let below = below.map(|repository| format!("\n        {repository}"));
        first.trim_end().to_owned() + &below.collect::<Vec<_>>().concat()
    }

    fn object(&self) -> serde_json::Value {
        json!({
            "name": self.name,
            "state": self.word(),
            "files": self.required_files.len(),
            "here": self.here,
            "bytes": self.bytes,
            "repositories": self.repositories(),
        })
    }
}
