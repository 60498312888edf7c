//! The model `shapes`, which is part of the program: a toy world of simple
//! things before simple backgrounds, 64 pixels wide, learnt by the programs in
//! `examples/` (its files tell their making in `ORIGIN.md`). It shows what an
//! edit is on a machine without a network; it knows nothing of real pictures.

use crate::hub::{BuiltInFile, FileTree};

/// What `--model` calls it.
pub(super) const NAME: &str = "shapes";

/// Its folder, in the diffusers layout.
pub(super) fn home() -> FileTree {
    FileTree::BuiltIn(NAME.into(), FILES.to_vec())
}

/// The files below `src/model/shapes`, by their paths there.
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
