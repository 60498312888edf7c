//! The model `shapes`, built into the program: trained by the programs in `examples/`
//! (see `ORIGIN.md` among its files) on synthetic 64-pixel pictures of simple objects on
//! simple backgrounds. It demonstrates edits offline; it does not model real pictures.

use crate::hub::{BuiltInFile, FileTree};

/// Its name for `--model`.
pub(super) const NAME: &str = "shapes";

/// Its folder, in the diffusers layout.
pub(super) fn home() -> FileTree {
    FileTree::BuiltIn(NAME.into(), FILES.to_vec())
}

/// The files under `src/model/shapes`, by relative path.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("shapes/", $name)))),+]
    };
}

const FILES: &[BuiltInFile] = files![
    "icd.toml",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "forward.safetensors",
    "reverse.safetensors",
];
