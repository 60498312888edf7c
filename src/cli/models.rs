//! `icd model`: models on this machine.

mod convert;
mod fetch;
mod list;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Models on this machine: which there are, fetch, check and convert them.
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
    /// Write weights anew: as safetensors, in another type, by other names, merged.
    Convert(convert::ConvertArgs),
}

impl ModelsArgs {
    pub(super) fn run(&self) -> Result<()> {
        match &self.verb {
            Verb::List(args) => args.run(),
            Verb::Fetch(args) => args.run(),
            Verb::Verify(args) => args.run(),
            Verb::Convert(args) => args.run(),
        }
    }
}
