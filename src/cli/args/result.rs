//! Where a result may change, its size, and what is written with it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use icd::picture::Picture;

use super::output::{self, SaveArgs};
use crate::cli::{Console, picture};

/// Where the result may change, its size, and what is written with it.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct ResultArgs {
    /// A mask picture, white where the result may change, black where it may not, grey in
    /// proportion; scaled to the input picture.
    #[arg(long, value_name = "FILE")]
    pub(crate) mask: Option<PathBuf>,
    /// Keep the pixels of the input picture outside of a mask, a local blend or a crop, byte
    /// for byte; the transition lies inside; off: the picture as decoded [default: on where
    /// one of them is given].
    #[arg(long, value_name = "on|off", num_args = 0..=1, default_missing_value = "on")]
    #[arg(hide_possible_values = true)]
    pub(crate) keep_pixels: Option<KeepPixels>,
    /// Leave the result at the size of the work [default: the size of the input picture,
    /// unless --size or --latents is given].
    #[arg(long, conflicts_with = "restore_size")]
    pub(crate) model_size: bool,
    /// Scale the result to the size of the input picture with --size or --latents, too.
    #[arg(long)]
    pub(crate) restore_size: bool,
    /// Source, reconstruction and edits side by side, with captions.
    #[arg(long, value_name = "FILE", value_parser = output::picture_file())]
    pub(crate) comparison: Option<PathBuf>,
    /// Cross-attention maps of each word: source.png, target.png.
    #[arg(long, alias = "attention", value_name = "DIR")]
    pub(crate) attention_maps: Option<PathBuf>,
    /// The final latents of the targets, as safetensors.
    #[arg(long, value_name = "FILE", value_parser = output::tensors())]
    pub(crate) save_latents: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) save: SaveArgs,
}

/// Whether the input picture's own pixels stay where the edit may not change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeepPixels {
    On,
    Off,
}

impl ResultArgs {
    /// Reads the mask, if there is one.
    pub(crate) fn read_mask(&self, console: &Console) -> anyhow::Result<Option<Picture>> {
        let mask = self.mask.as_deref();
        mask.map(|file| picture::read(file, console)).transpose()
    }
}
