//! `icd man`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use icd::io::write_file;

use crate::cli::{
    args::output::WriteArgs,
    command,
    ui::lines::{print_bytes, print_line},
};

/// Prints the manual page, or writes a page for each command into a folder.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManArgs {
    /// Write icd.1, icd-edit.1, .. into this folder.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    write: WriteArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd man > icd.1
  icd man ~/.local/share/man/man1";

/// A heading, and its entries with what they mean.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// What all pages say at their end.
const SECTIONS: [Section; 3] = [
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            (
                "1",
                "Failed: a file, the network or the machine is at fault; of icd batch: some jobs failed.",
            ),
            (
                "2",
                "Wrong usage: a flag, a setting or a prompt is at fault.",
            ),
            (
                "75",
                "Of icd batch: the machine failed (disk full, out of memory, device lost), not a job; run it again.",
            ),
            ("128 + N", "Ended by signal N; no partial files are left."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "ICD_MODEL, ICD_DEVICE, ICD_DTYPE, ICD_THREADS, ICD_CACHE, ICD_YES",
                "Defaults of the flags of these names. They take precedence over the configuration file; a variable that is set to nothing counts as not set.",
            ),
            (
                "ICD_CONFIG",
                "The configuration file, or none to read none.",
            ),
            (
                "ICD_SIMD",
                "Limits the vectors of the CPU kernels, to avx2 or plain, or only how they multiply bf16, to vdpbf16ps or emulated.",
            ),
            ("HF_HOME, HF_HUB_CACHE", "The folder of downloaded models."),
            ("HF_TOKEN", "Authenticates downloads from the hub."),
            ("HF_ENDPOINT", "A mirror of the hub."),
            ("HF_HUB_OFFLINE", "1 forbids downloads."),
            (
                "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
                "Proxies of downloads.",
            ),
            (
                "SSL_CERT_FILE",
                "Certificates to trust besides the system's, as a proxy may need.",
            ),
            ("NO_COLOR", "Errors and help without colours."),
        ],
    ),
    (
        "FILES",
        &[
            (
                "~/.config/icd/config.toml",
                "Defaults of flags in TOML, with the keys model, device, dtype, threads, cache and yes.",
            ),
            (
                "~/.cache/huggingface/hub",
                "Downloaded models, shared with other programs.",
            ),
            (
                "icd.toml",
                "In a model folder: its UNet, adapters, timesteps and defaults.",
            ),
        ],
    ),
];

impl ManArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let Some(folder) = &self.folder else {
            return print_bytes(&page(&Man::new(command()))?);
        };
        fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut command = command().disable_help_subcommand(true);
        command.build(); // gives subcommands their full names
        let pages = pages(&command)?.into_iter();
        let pages = pages.map(|(name, page)| (folder.join(name), page));
        let (files, pages): (Vec<_>, Vec<_>) = pages.unzip();
        self.write.check(&files)?;
        for (file, page) in files.iter().zip(pages) {
            write_file(file, &page, self.write.existing())?;
        }
        print_line(&folder.display().to_string())
    }
}

/// The pages of a command and its subcommands, by file name.
fn pages(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let below: Vec<_> = shown.map(pages).collect::<Result<_>>()?;
    let man = Man::new(command.clone());
    let own = (man.get_filename(), page(&man)?);
    Ok([vec![own], below.concat()].concat())
}

/// A page with the sections that all pages have.
fn page(man: &Man) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut roff = Roff::default();
    for (heading, entries) in SECTIONS {
        roff.control("SH", [heading]);
        for (entry, text) in entries {
            roff.control("TP", []);
            roff.text([bold(*entry)]);
            roff.text([roman(*text)]);
        }
    }
    page.extend_from_slice(roff.to_roff().as_bytes()); // without the macros, which it has
    Ok(page)
}
