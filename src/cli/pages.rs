//! `icd completions` and `icd man`: what shells and manual readers want to
//! know of the command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{
    Cli,
    console::{print, tell},
};

const NAME: &str = "icd";

/// Prints a script that completes icd's words in a shell.
#[derive(Args)]
#[command(after_help = COMPLETIONS)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

const COMPLETIONS: &str = "\
Examples:
  icd completions bash > ~/.local/share/bash-completion/completions/icd
  icd completions fish > ~/.config/fish/completions/icd.fish";

impl CompletionsArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), NAME, &mut script);
        print(&script)
    }
}

/// Prints the manual page, or writes a page for each verb into a folder.
#[derive(Args)]
#[command(after_help = MAN)]
pub(super) struct ManArgs {
    /// Write icd.1, icd-edit.1, .. into this folder.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

const MAN: &str = "\
Examples:
  icd man > icd.1
  icd man ~/.local/share/man/man1";

impl ManArgs {
    pub(super) fn run(&self) -> Result<()> {
        let Some(folder) = &self.folder else {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page)?;
            return print(&page);
        };
        clap_mangen::generate_to(Cli::command(), folder)
            .with_context(|| folder.display().to_string())?;
        tell(&folder.display().to_string())
    }
}
