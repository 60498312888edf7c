//! `icd model`.

mod convert;
mod fetch;
mod list;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Lists, fetches, verifies and converts models.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  icd model list
  icd model fetch sd15 --yes";

#[derive(Subcommand)]
enum Verb {
    /// List the presets and whether they are downloaded.
    List(list::ListArgs),
    /// Download a model's files from the hub.
    Fetch(fetch::FetchArgs),
    /// Check downloaded files against their hashes.
    Verify(verify::VerifyArgs),
    /// Convert weights: to safetensors, another data type, other names, merged.
    Convert(convert::ConvertArgs),
}

impl ModelsArgs {
    pub(crate) fn run(&self) -> Result<()> {
        match &self.verb {
            Verb::List(args) => args.run(),
            Verb::Fetch(args) => args.run(),
            Verb::Verify(args) => args.run(),
            Verb::Convert(args) => args.run(),
        }
    }
}
