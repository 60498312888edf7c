//! `icd model fetch`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use icd::{
    Error,
    hub::{Cache, Hub, Location, Progress, RequiredFile, repositories},
    model::{ModelChoice, required_files},
};
use serde_json::json;

use crate::cli::{
    args::model::VariantArgs,
    ui::{
        download::{FetchOptions, fetch_missing, pause},
        lines::{log_line, print_result},
    },
};

/// Downloads a model's files from the hub into its cache, or an archive of weights from
/// any address. Files already present are kept, interrupted downloads resume.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FetchArgs {
    /// sd15, sdxl, hub:owner/name[@revision] of a model in the diffusers layout, with
    /// /file for one file of any repository, or the https address of a .tar.gz.
    #[arg(value_name = "NAME|HUB|URL")]
    what: String,
    #[command(flatten)]
    preset: VariantArgs,
    /// The folder that an archive is unpacked into; the current one by default.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    options: FetchOptions,
    /// Print one JSON object per folder or file.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd model fetch sd15 --yes
  icd model fetch sd15 --variant 3 --yes --json

HF_HOME or HF_HUB_CACHE sets the cache, HF_TOKEN authenticates, HF_ENDPOINT sets
a mirror, HF_HUB_OFFLINE=1 forbids downloads, HTTPS_PROXY sets a proxy.";

impl FetchArgs {
    pub(crate) fn run(&self) -> Result<()> {
        match self.what.starts_with("https://") || self.what.starts_with("http://") {
            true => self.archive(),
            false => self.model(),
        }
    }

    fn model(&self) -> Result<()> {
        ensure!(
            self.into.is_none(),
            Error::setting("--into belongs to archives; HF_HUB_CACHE names another cache")
        );
        let required_files = self.required_files()?;
        fetch_missing(&required_files, self.options)?;
        let cache = Cache::from_env();
        let required_files = required_files()?;
        let repositories = repositories(&required_files);
        if repositories.is_empty() && !self.options.quiet {
            log_line(&format!("{} needs nothing from the hub", self.what));
        }
        repositories.iter().try_for_each(|repository| {
            let folder = cache.snapshot(repository);
            let folder = folder.unwrap_or_default().display().to_string();
            let facts = json!({ "repository": repository.to_string(), "folder": folder });
            print_result(self.json, &facts, folder)
        })
    }

    /// The required files of a model, or a single file.
    fn required_files(&self) -> Result<Box<dyn Fn() -> icd::Result<Vec<RequiredFile>>>> {
        if Location::on_hub(&self.what).is_some()
            && let file @ Location::File(..) =
                Location::parse(&self.what, Path::new(""), &Cache::from_env())?
        {
            return Ok(Box::new(move || {
                Ok(file.need(&[], false).into_iter().collect())
            }));
        }
        let choice = ModelChoice {
            variant: self.preset.variant,
            ..ModelChoice::named(&self.what)
        };
        Ok(Box::new(move || required_files(&choice)))
    }

    fn archive(&self) -> Result<()> {
        ensure!(
            self.preset.variant.is_none(),
            Error::setting("--variant belongs to the presets sd15 and sdxl")
        );
        let into = self.into.clone().unwrap_or_else(|| ".".into());
        let bar = (self.options).bar("{spinner} {bytes} {bytes_per_sec} {msg}");
        let files =
            Hub::from_env()?.fetch_archive(&self.what, &into, &mut |progress| match progress {
                Progress::Here(bytes) => bar.set_position(bytes),
                Progress::Checking => bar.set_message("unpacking"),
                Progress::Waiting | Progress::Unlocked(_) => {}
                again @ Progress::Again(..) => bar.suspend(|| pause(self.options, "", &again)),
            });
        bar.finish_and_clear();
        files?.iter().try_for_each(|file| {
            let file = file.display().to_string();
            print_result(self.json, &json!({ "output": file }), file)
        })
    }
}
