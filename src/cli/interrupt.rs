//! Ctrl-C.

use std::process;

use anyhow::{Context, Result};
use icd::io::hold_writing;

use super::ui::console::log_line;

/// The shell exit code of a program terminated by SIGINT: 128 + 2.
const INTERRUPTED: i32 = 130;

/// Exits on Ctrl-C once no file is being written, so that no file is left
/// incomplete and no temporary file is left.
#[expect(
    clippy::exit,
    reason = "the other threads are to end wherever they are"
)]
pub(crate) fn end_at_ctrl_c() -> Result<()> {
    let end = || {
        let mut writing = hold_writing();
        writing.abandon();
        log_line("interrupted");
        process::exit(INTERRUPTED);
    };
    ctrlc::set_handler(end).context("listening for Ctrl-C")
}
