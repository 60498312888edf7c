//! The `icd` program: parses its arguments, runs one command, prints the result.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test may fail")
)]

mod cli;

use std::process::ExitCode;

/// Without it a program that is linked with musl takes twice as long.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: icd::kernel::ReusingAllocator = icd::kernel::ReusingAllocator::new();

fn main() -> ExitCode {
    cli::run()
}
