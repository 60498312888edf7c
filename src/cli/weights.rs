//! Weights that a model needs and this machine lacks: shown, asked for, fetched.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write, stderr, stdin},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, builder::FalseyValueParser};
use icd::{
    Error,
    hub::{Cache, Hub, Need, Plan, Progress, Wanted},
};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use super::console::say;

/// Less than this is fetched without a question: the files that tell what a
/// model is made of.
const UNASKED: u64 = 1 << 20;
/// A model's files name others, which may name others: an index, then its parts.
const ROUNDS: usize = 3;

/// How a person is asked and told.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Fetch without a question.
    #[arg(long, short, env = "ICD_YES", value_parser = FalseyValueParser::new())]
    pub(super) yes: bool,
    /// Say nothing but errors on stderr.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// Fetches what is needed and the cache lacks. Nothing is asked of anybody
/// where nothing is missing.
pub(super) fn bring(needs: &dyn Fn() -> icd::Result<Vec<Need>>, manner: Manner) -> Result<()> {
    let cache = Cache::from_env();
    for _ in 0..ROUNDS {
        let needs = needs()?;
        if needs.is_empty() {
            return Ok(());
        }
        let hub = Hub::from_env()?;
        let plan = hub.plan(&cache, &needs, &mut |progress| pause(manner, "", &progress))?;
        if plan.files.is_empty() {
            return Ok(());
        }
        if plan.bytes > UNASKED {
            allow(&hub, &cache, &plan, manner)?;
        }
        let bars = Bars::new(&plan, manner);
        hub.fetch_all(&cache, &plan, &mut |wanted, progress| {
            bars.show(wanted, &progress);
        })?;
    }
    Ok(())
}

/// Tells what is to be fetched, and asks whether it may be.
fn allow(hub: &Hub, cache: &Cache, plan: &Plan, manner: Manner) -> Result<()> {
    if !manner.quiet || !manner.yes {
        for line in contents(plan) {
            say(&line);
        }
        say(&format!(
            "{} are to be fetched from {} into {}",
            HumanBytes(plan.bytes),
            hub.endpoint(),
            cache.root().display()
        ));
    }
    if manner.yes {
        return Ok(());
    }
    if !(stdin().is_terminal() && stderr().is_terminal()) {
        let reason = "nothing was fetched: --yes allows it where nobody can be asked";
        return Err(Error::setting(reason).into());
    }
    match agreed()? {
        true => Ok(()),
        false => Err(Error::setting("nothing was fetched").into()),
    }
}

fn agreed() -> Result<bool> {
    write!(stderr(), "Fetch them? [y/N] ").context("asking")?;
    let mut answer = String::new();
    stdin()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A plan in lines: each repository with its licence, its large files, and how
/// many small ones.
fn contents(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for (repository, licence) in &plan.licences {
        let licence = licence.as_deref().unwrap_or("states no licence");
        lines.push(format!("{repository}, licence: {licence}"));
        let files = plan
            .files
            .iter()
            .map(|wanted| (&wanted.repository, &wanted.file));
        let files: Vec<_> = files.filter(|(of, _)| *of == repository).collect();
        let (large, small): (Vec<_>, Vec<_>) =
            files.iter().partition(|(_, file)| file.size > UNASKED);
        let named = large
            .iter()
            .map(|(_, file)| format!("  {:>11}  {}", HumanBytes(file.size).to_string(), file.name));
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

/// A bar for the file that is fetched, and one for all of them.
struct Bars {
    manner: Manner,
    both: MultiProgress,
    file: ProgressBar,
    all: ProgressBar,
    /// Bytes before each file.
    before: BTreeMap<String, u64>,
}

impl Bars {
    fn new(plan: &Plan, manner: Manner) -> Self {
        let bars = MultiProgress::new();
        if manner.quiet {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let bar = |length, template: &str| {
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(ProgressBar::new(length).with_style(style))
        };
        let sizes = plan.files.iter().scan(0, |sum, wanted| {
            let before = *sum;
            *sum += wanted.file.size;
            Some((wanted.to_string(), before))
        });
        let whole = plan.files.iter().map(|wanted| wanted.file.size).sum();
        Self {
            manner,
            file: bar(0, "{wide_msg} {bytes}/{total_bytes} {bytes_per_sec}"),
            all: bar(whole, "all {wide_bar} {bytes}/{total_bytes} left {eta}"),
            before: sizes.collect(),
            both: bars,
        }
    }

    fn show(&self, wanted: &Wanted, progress: &Progress) {
        let name = wanted.to_string();
        match progress {
            Progress::Here(bytes) => {
                if self.file.message() != name {
                    self.file.reset();
                    self.file.set_length(wanted.file.size);
                    self.file.set_message(name.clone());
                }
                self.file.set_position(*bytes);
                self.all.set_position(self.before[&name] + bytes);
            }
            Progress::Checking => self.file.set_message(format!("{name}: checking")),
            Progress::Waiting => self
                .file
                .set_message(format!("{name}: another program fetches it")),
            again @ Progress::Again(..) => self.both.suspend(|| pause(self.manner, &name, again)),
        }
    }
}

impl Drop for Bars {
    /// Leaves no bar behind, whatever happened.
    fn drop(&mut self) {
        let _ = self.both.clear(); // nobody looks at a terminal that is gone
    }
}

/// Tells that an attempt failed and another one follows.
fn pause(manner: Manner, what: &str, progress: &Progress) {
    if let (Progress::Again(reason, pause), false) = (progress, manner.quiet) {
        let colon = if what.is_empty() { "" } else { ": " };
        let seconds = pause.max(&Duration::from_secs(1)).as_secs();
        say(&format!("{what}{colon}{reason}; again in {seconds} s"));
    }
}
