//! The `icd` program: parses its arguments, runs one command, prints the result.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test may fail")
)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
