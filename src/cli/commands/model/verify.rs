//! `icd model verify`.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use icd::{
    Error,
    hub::{Cache, Digest},
    model::{Model, ModelChoice, required_files},
    nn::Placement,
};
use serde_json::json;

use crate::cli::{
    args::model::VariantArgs,
    ui::{
        lines::{foreign, log_line, print_result},
        progress::progress_bar,
    },
};

/// Compares the content of a model's files with the hashes they are named by in
/// the cache, and does with any model what a run does before its first step: reads its
/// configurations and tokenizers, and builds its networks with their adapters.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// sd15, sdxl, tabletop, hub:owner/name, or a model folder.
    #[arg(value_name = "NAME|HUB|DIR")]
    model: String,
    #[command(flatten)]
    preset: VariantArgs,
    /// Print one JSON object per file and per network.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd model verify tabletop
  icd model fetch sd15 --yes && icd model verify sd15 --json";

impl VerifyArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let choice = ModelChoice {
            variant: self.preset.variant,
            ..ModelChoice::named(&self.model)
        };
        let cache = Cache::from_env();
        let required_files = required_files(&choice)?;
        let files = required_files.iter().filter_map(|need| {
            let file = need.file(&cache)?;
            let name = file.strip_prefix(cache.snapshot(&need.repository)?).ok()?;
            let name = format!("{}/{}", need.repository, name.display());
            let digests = cache.digests(&need.repository, &file);
            Some((name, file, digests))
        });
        let damaged = files.filter_map(|(name, file, digests)| {
            let digests = digests.with_context(|| file.display().to_string());
            let verdict = digests.and_then(|digests| self.verdict(&name, &file, &digests));
            verdict.transpose()
        });
        let damaged: Vec<_> = damaged.collect::<Result<_>>()?;
        if !damaged.is_empty() {
            bail!(
                "{} of the files are damaged: delete them and run icd model fetch {}:\n  {}",
                damaged.len(),
                self.model,
                damaged.join("\n  ")
            );
        }
        let model = Model::open(&choice, Placement::cpu_f32());
        let model = model.map_err(|error| match error {
            Error::Hub { .. } => anyhow!("{error} (icd model fetch {})", self.model),
            other => other.into(),
        })?;
        for note in model.notes()? {
            log_line(&format!("note: {note}"));
        }
        model.verify()?;
        for (network, values) in model.parameter_counts()? {
            let facts = json!({ "network": network, "values": values });
            let text = format!("{network}: {:.1} million values", values as f64 / 1e6);
            print_result(self.json, &facts, text)?;
        }
        Ok(())
    }

    /// Checks a cached file that should have one of these hashes; returns the path of its
    /// content if that is damaged.
    fn verdict(&self, name: &str, file: &Path, digests: &[Digest]) -> Result<Option<String>> {
        let name = foreign(name);
        if digests.is_empty() {
            self.print(&name, "no hash is known")?;
            return Ok(None);
        }
        let content = fs::canonicalize(file).with_context(|| file.display().to_string())?;
        let fault = || content.display().to_string();
        let length = content.metadata().with_context(fault)?.len();
        let bar = progress_bar("{wide_msg} {bytes}/{total_bytes}", length);
        bar.set_message(name.clone());
        let mut fits = false;
        for digest in digests {
            bar.set_position(0);
            let file = File::open(&content).with_context(fault)?;
            fits = fits
                || digest
                    .matches(bar.wrap_read(file), length)
                    .with_context(fault)?;
        }
        bar.finish_and_clear();
        self.print(&name, if fits { "whole" } else { "DAMAGED" })?;
        Ok((!fits).then(|| content.display().to_string()))
    }

    fn print(&self, file: &str, state: &str) -> Result<()> {
        let facts = json!({ "file": file, "state": state.to_lowercase() });
        print_result(self.json, &facts, format!("{file}: {state}"))
    }
}
