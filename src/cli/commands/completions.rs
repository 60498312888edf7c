//! `icd completions` and `icd man`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::{
    Cli,
    ui::console::{print_bytes, print_line},
};

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
        clap_complete::generate(self.shell, &mut Cli::command(), NAME, &mut script);
        print_bytes(&script)
    }
}

/// Prints the manual page, or writes a page for each command into a folder.
#[derive(Args)]
#[command(after_help = MAN)]
pub(crate) struct ManArgs {
    /// Write icd.1, icd-edit.1, .. into this folder.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

const MAN: &str = "\
Examples:
  icd man > icd.1
  icd man ~/.local/share/man/man1";

impl ManArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let Some(folder) = &self.folder else {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page)?;
            return print_bytes(&page);
        };
        clap_mangen::generate_to(Cli::command(), folder)
            .with_context(|| folder.display().to_string())?;
        print_line(&folder.display().to_string())
    }
}
