//! `icd model fetch`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use icd::{
    Error,
    hub::{Cache, Hub, Need, Progress, Reference, repositories},
    model::{ModelChoice, needs},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::{
    console::{say, tell},
    model::VariantValue,
    weights::{Manner, bring},
};

/// Fetches what a model needs from the hub into its usual cache, or an archive of
/// weights from anywhere; what is here already is not fetched again, and what was
/// cut goes on where it ended.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FetchArgs {
    /// sd15, sdxl, hub:owner/name[@revision] of a model in the diffusers layout, with
    /// /file for one file of any repository, or the https address of a .tar.gz.
    #[arg(value_name = "NAME|HUB|URL")]
    what: String,
    /// A preset's adapter pair: 4 steps for tau 0.8, 4 steps for tau 0.7, or 3.
    #[arg(long)]
    variant: Option<VariantValue>,
    /// The folder that an archive is unpacked into; the current one by default.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    manner: Manner,
    /// Print one JSON object per folder or file.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd model fetch sd15 --yes
  icd model fetch sd15 --variant 3 --yes --json

HF_HOME or HF_HUB_CACHE name the cache, HF_TOKEN a person, HF_ENDPOINT a mirror,
HF_HUB_OFFLINE=1 forbids to fetch, HTTPS_PROXY names a proxy.";

impl FetchArgs {
    pub(super) fn run(&self) -> Result<()> {
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
        let needs = self.needs()?;
        bring(&needs, self.manner)?;
        let cache = Cache::from_env();
        let needs = needs()?;
        let repositories = repositories(&needs);
        if repositories.is_empty() && !self.manner.quiet {
            say(&format!("{} needs nothing of the hub", self.what));
        }
        repositories.iter().try_for_each(|repository| {
            let folder = cache.snapshot(repository);
            let folder = folder.unwrap_or_default().display().to_string();
            tell(&match self.json {
                true => {
                    json!({ "repository": repository.to_string(), "folder": folder }).to_string()
                }
                false => folder,
            })
        })
    }

    /// What is needed of a model, or a single file.
    fn needs(&self) -> Result<Box<dyn Fn() -> icd::Result<Vec<Need>>>> {
        if self.what.starts_with("hub:")
            && let file @ Reference::File(..) = Reference::parse(&self.what, Path::new(""))?
        {
            return Ok(Box::new(move || {
                Ok(file.need(&[], false).into_iter().collect())
            }));
        }
        let choice = ModelChoice {
            variant: self.variant.map(Into::into),
            ..ModelChoice::named(&self.what)
        };
        Ok(Box::new(move || needs(&choice)))
    }

    fn archive(&self) -> Result<()> {
        ensure!(
            self.variant.is_none(),
            Error::setting("--variant belongs to the presets sd15 and sdxl")
        );
        let into = self.into.clone().unwrap_or_else(|| ".".into());
        let bar = self.bar();
        let files =
            Hub::from_env()?.fetch_archive(&self.what, &into, &mut |progress| match progress {
                Progress::Here(bytes) => bar.set_position(bytes),
                Progress::Checking => bar.set_message("unpacking"),
                Progress::Waiting => {}
                Progress::Again(reason, pause) => {
                    bar.suspend(|| say(&format!("{reason}; again in {} s", pause.as_secs())));
                }
            });
        bar.finish_and_clear();
        files?.iter().try_for_each(|file| {
            let file = file.display().to_string();
            tell(&match self.json {
                true => json!({ "output": file }).to_string(),
                false => file,
            })
        })
    }

    fn bar(&self) -> ProgressBar {
        if self.manner.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        ProgressBar::new_spinner().with_style(style)
    }
}
