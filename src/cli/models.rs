//! `icd model`.

mod convert;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Brings files of weights into another form.
#[derive(Args)]
#[command(after_help = convert::EXAMPLES)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write weights anew: as safetensors, in another type, by other names, merged.
    Convert(convert::ConvertArgs),
}

impl ModelsArgs {
    pub(super) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Convert(args) => args.run(),
        }
    }
}
