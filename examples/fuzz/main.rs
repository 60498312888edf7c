//! Feeds damaged input to everything that reads files or words of others, and
//! tells what panics.
//!
//! ```text
//! cargo run --release --example fuzz -- picture --seconds 600 --seed 1
//! ```
//!
//! The same seed tries the same inputs. What panics is written to `fuzz-TARGET.bin` in the
//! current folder, and what takes more than ten seconds to `fuzz-TARGET-slow.bin`;
//! `--input` feeds such a file again.

#![expect(clippy::print_stdout, reason = "it tells what it found")]

mod models;
mod mutate;
mod settings;
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use mutate::mutated;
use targets::Target;

/// Feeds damaged input to what reads files or words of others.
#[derive(Parser)]
struct Options {
    /// What is fed
    target: Target,
    /// How long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The same seed tries the same inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Feed this file alone
    #[arg(long)]
    input: Option<PathBuf>,
}

/// What takes longer is written to a file.
const SLOW: Duration = Duration::from_secs(10);

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut dice = ChaCha8Rng::seed_from_u64(options.seed);
    let (seeds, mut feed) = options.target.open()?;
    if let Some(input) = options.input {
        let begin = Instant::now();
        let was_taken = feed(&fs::read(input)?);
        println!("taken: {was_taken}, in {} ms", begin.elapsed().as_millis());
        return Ok(ExitCode::SUCCESS);
    }
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let (mut tried, mut taken, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    while Instant::now() < end {
        let input = mutated(&seeds, &mut dice);
        let begin = Instant::now();
        let Ok(was_taken) = catch_unwind(AssertUnwindSafe(|| feed(&input))) else {
            let file = format!("fuzz-{}.bin", options.target.name());
            fs::write(&file, &input)?;
            println!("input {tried} of seed {} panics: {file}", options.seed);
            return Ok(ExitCode::FAILURE);
        };
        let took = begin.elapsed();
        if took > slowest.max(SLOW) {
            fs::write(format!("fuzz-{}-slow.bin", options.target.name()), &input)?;
        }
        slowest = slowest.max(took);
        taken += u64::from(was_taken);
        tried += 1;
    }
    println!(
        "{}: {tried} inputs, {taken} of them were taken, none panicked, the slowest took {} ms",
        options.target.name(),
        slowest.as_millis()
    );
    Ok(ExitCode::SUCCESS)
}
