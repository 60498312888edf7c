//! Downloads of missing weights: listed, confirmed, shown with progress bars.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write, stderr, stdin},
    sync::Once,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, builder::FalseyValueParser};
use icd::{
    Error,
    hub::{Cache, DownloadPlan, Hub, PlannedFile, Progress, RequiredFile},
};
use indicatif::{HumanBytes, MultiProgress, ProgressBar};

use super::{
    lines::{foreign, log_line},
    progress::progress_bar,
};

/// Downloads smaller than this (configurations, indices) need no confirmation.
const UNASKED: u64 = 1 << 20;
/// Some files refer to others, for example a sharded index to its shards.
const ROUNDS: usize = 3;

/// Whether to ask, and what to print.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FetchOptions {
    /// Download without asking.
    #[arg(long, short, env = "ICD_YES", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) yes: bool,
    /// Print errors only.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl FetchOptions {
    /// A progress bar of this template, unless quiet.
    pub(crate) fn bar(self, template: &str) -> ProgressBar {
        match self.quiet {
            true => ProgressBar::hidden(),
            false => progress_bar(template, 0),
        }
    }
}

/// Downloads the required files that the cache lacks.
pub(crate) fn fetch_missing(
    required_files: &dyn Fn() -> icd::Result<Vec<RequiredFile>>,
    options: FetchOptions,
) -> Result<()> {
    let cache = Cache::from_env();
    for _ in 0..ROUNDS {
        let required_files = required_files()?;
        if required_files.is_empty() {
            return Ok(());
        }
        let hub = Hub::from_env()?;
        let plan = hub.plan(&cache, &required_files, &mut |progress| {
            pause(options, "", &progress);
        })?;
        if plan.files.is_empty() {
            return Ok(());
        }
        if plan.bytes > UNASKED {
            allow(&hub, &cache, &plan, options)?;
        }
        let bars = Bars::new(&plan, options);
        hub.fetch_all(&cache, &plan, &mut |wanted, progress| {
            bars.show(wanted, &progress);
        })?;
    }
    Ok(())
}

/// Lists what is to be downloaded and asks for confirmation.
fn allow(hub: &Hub, cache: &Cache, plan: &DownloadPlan, options: FetchOptions) -> Result<()> {
    if !options.quiet || !options.yes {
        for line in contents(plan) {
            log_line(&line);
        }
        log_line(&format!(
            "{} to download from {} into {}",
            HumanBytes(plan.bytes),
            hub.endpoint(),
            cache.root()?.display()
        ));
    }
    if options.yes {
        return Ok(());
    }
    if !(stdin().is_terminal() && stderr().is_terminal()) {
        let reason = "cannot ask for confirmation: stdin or stderr is not a terminal; pass --yes to download";
        return Err(Error::setting(reason).into());
    }
    match agreed()? {
        true => Ok(()),
        false => Err(Error::setting("nothing was downloaded").into()),
    }
}

fn agreed() -> Result<bool> {
    write!(stderr(), "Download? [y/N] ").context("asking")?;
    let mut answer = String::new();
    stdin()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A plan as lines: each repository with its licence, its large files, and the
/// number of small ones.
fn contents(plan: &DownloadPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for (repository, licence) in &plan.licences {
        let licence = foreign(licence.as_deref().unwrap_or("not stated"));
        lines.push(format!("{repository}, licence: {licence}"));
        let files = plan
            .files
            .iter()
            .map(|wanted| (&wanted.repository, &wanted.file));
        let files: Vec<_> = files.filter(|(of, _)| *of == repository).collect();
        let (large, small): (Vec<_>, Vec<_>) =
            files.iter().partition(|(_, file)| file.size > UNASKED);
        let named = large.iter().map(|(_, file)| {
            format!(
                "  {:>11}  {}",
                HumanBytes(file.size).to_string(),
                foreign(&file.name)
            )
        });
        lines.extend(named);
        if !small.is_empty() {
            let bytes = small.iter().map(|(_, file)| file.size).sum();
            lines.push(format!(
                "  {:>11}  {} small files",
                HumanBytes(bytes).to_string(),
                small.len()
            ));
        }
    }
    lines
}

/// Progress bars for the current file and for the whole download.
struct Bars {
    options: FetchOptions,
    both: MultiProgress,
    file: ProgressBar,
    all: ProgressBar,
    /// Total size of the files before each file.
    before: BTreeMap<String, u64>,
    /// Printed once, not for each file.
    unlocked: Once,
}

impl Bars {
    fn new(plan: &DownloadPlan, options: FetchOptions) -> Self {
        let bars = MultiProgress::new();
        if options.quiet {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let bar = |length, template| bars.add(progress_bar(template, length));
        let mut whole = 0_u64;
        let mut before = BTreeMap::new();
        for wanted in &plan.files {
            before.insert(wanted.to_string(), whole);
            whole = whole.saturating_add(wanted.file.size);
        }
        Self {
            options,
            file: bar(0, "{wide_msg} {bytes}/{total_bytes} {bytes_per_sec}"),
            all: bar(whole, "all {wide_bar} {bytes}/{total_bytes} left {eta}"),
            before,
            both: bars,
            unlocked: Once::new(),
        }
    }

    fn show(&self, wanted: &PlannedFile, progress: &Progress) {
        let key = wanted.to_string();
        let name = foreign(&key);
        match progress {
            Progress::Here(bytes) => {
                if self.file.message() != name {
                    self.file.reset();
                    self.file.set_length(wanted.file.size);
                    self.file.set_message(name);
                }
                self.file.set_position(*bytes);
                self.all
                    .set_position(self.before[&key].saturating_add(*bytes));
            }
            Progress::Checking => self.file.set_message(format!("{name}: checking")),
            Progress::Waiting => self.file.set_message(format!(
                "{name}: waiting for another program that downloads it"
            )),
            Progress::Unlocked(reason) => self.unlocked.call_once(|| {
                self.both.suspend(|| note_unlocked(self.options, reason));
            }),
            again @ Progress::Again(..) => self.both.suspend(|| pause(self.options, &name, again)),
        }
    }
}

impl Drop for Bars {
    /// Removes the bars, on errors too.
    fn drop(&mut self) {
        let _ = self.both.clear(); // the terminal may be gone
    }
}

/// Notes that nothing keeps other programs from downloading the same files.
fn note_unlocked(options: FetchOptions, reason: &io::Error) {
    if !options.quiet {
        log_line(&format!(
            "note: the file system of the cache has no locks ({reason}): do not download into \
             it with several programs at once"
        ));
    }
}

/// Reports a failed attempt and the pause before the next.
pub(crate) fn pause(options: FetchOptions, what: &str, progress: &Progress) {
    if let (Progress::Again(reason, pause), false) = (progress, options.quiet) {
        let colon = if what.is_empty() { "" } else { ": " };
        let seconds = pause.max(&Duration::from_secs(1)).as_secs();
        log_line(&format!("{what}{colon}{reason}; retrying in {seconds} s"));
    }
}
