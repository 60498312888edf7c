//! Progress bars.

use std::{ops::Deref, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar that is removed with the last console that has it, on errors too.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar that is not shown.
    pub(super) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// A bar that turns until it is told how far the work is.
    pub(super) fn spinner() -> Self {
        let bar = progress_bar(WAITING, 0);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }
}

impl Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.0
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish_and_clear();
    }
}

/// The progress template for work of unknown length.
pub(super) const WAITING: &str = "{spinner} {msg} {elapsed}";
/// The progress template for sampling steps.
pub(super) const STEPPING: &str = "{spinner} {msg} {bar:24} {pos}/{len} {elapsed}";
/// The progress template for the jobs of a batch.
pub(super) const JOBS: &str =
    "{spinner} {prefix} {bar:24} {pos}/{len}, {per_sec}, {eta} to go{msg}";

/// A template as the style of a bar.
pub(super) fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A progress bar of this template and length, 0 if it is not known yet.
pub(crate) fn progress_bar(template: &str, length: u64) -> ProgressBar {
    ProgressBar::new(length).with_style(style(template))
}
