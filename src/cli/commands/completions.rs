//! `icd completions`.

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use crate::cli::{command, ui::lines::print_bytes};

const NAME: &str = "icd";

/// Prints a shell completion script.
#[derive(Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

const COMPLETIONS: &str = "\
Examples:
  icd completions bash > ~/.local/share/bash-completion/completions/icd
  icd completions fish > ~/.config/fish/completions/icd.fish";

impl CompletionsArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), NAME, &mut script);
        print_bytes(&script)
    }
}
