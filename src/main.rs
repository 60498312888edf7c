//! The `icd` program: reads its arguments, runs one verb, tells the result.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
