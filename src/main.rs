//! The `icd` program: reads its arguments, runs one verb, tells the result.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test may fail")
)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
