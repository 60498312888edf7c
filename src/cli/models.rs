//! `icd model`: models on this machine.

mod fetch;
mod list;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Models on this machine: which there are, fetch them, check them.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  icd model list
  icd model fetch sd15 --yes";

#[derive(Subcommand)]
enum Verb {
    /// List the models that have a name, and what of them is on this machine.
    List(list::ListArgs),
    /// Fetch what a model needs from the hub.
    Fetch(fetch::FetchArgs),
    /// Compare what was fetched with what it must be.
    Verify(verify::VerifyArgs),
}

impl ModelsArgs {
    pub(super) fn run(&self) -> Result<()> {
        match &self.verb {
            Verb::List(args) => args.run(),
            Verb::Fetch(args) => args.run(),
            Verb::Verify(args) => args.run(),
        }
    }
}
