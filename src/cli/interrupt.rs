//! Signals that end the program: Ctrl-C, and on Unix also SIGTERM and SIGHUP.

use anyhow::{Context, Result};
use icd::io::hold_writing;

use super::ui::lines::log_line;

/// Ends the program at a signal once no bytes are being written, so that no file is
/// left incomplete and no temporary file is left.
///
/// The process ends by the signal itself: a shell that runs it in a loop stops, too.
#[cfg(unix)]
pub(crate) fn end_at_signals() -> Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
        flag,
        iterator::Signals,
        low_level::emulate_default_handler,
    };

    // Writing beyond the limit of file sizes is then an error like a full disk.
    flag::register(SIGXFSZ, std::sync::Arc::default()).context("setting up signals")?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("setting up signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            abandon();
            // Does not return for these signals.
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// Ends the program at Ctrl-C once no bytes are being written, so that no file is left
/// incomplete and no temporary file is left.
#[cfg(not(unix))]
#[expect(
    clippy::exit,
    reason = "the other threads are to end wherever they are"
)]
pub(crate) fn end_at_signals() -> Result<()> {
    /// The exit code of a program that Ctrl-C ended, as in a Unix shell.
    const INTERRUPTED: i32 = 130;

    let end = || {
        abandon();
        std::process::exit(INTERRUPTED);
    };
    ctrlc::set_handler(end).context("setting up Ctrl-C")
}

/// Removes temporary files and blocks writing for good.
fn abandon() {
    let mut writing = hold_writing();
    writing.abandon();
    std::mem::forget(writing);
    log_line("interrupted");
}
