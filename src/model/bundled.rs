//! The model `tabletop`, built into the program: trained from nothing by
//! `examples/tabletop` (see `ORIGIN.md` among its files) on rendered still lifes of 128
//! pixels. It demonstrates edits offline; it does not model real pictures.

use crate::{
    hub::{BuiltInFile, FileTree},
    io::BuiltIn,
};

/// Its name for `--model`.
pub const NAME: &str = "tabletop";
/// The name of the model that was built in before it. It is taken for the same, so that
/// scripts go on, but told nowhere.
const FORMER: &str = "shapes";

/// Whether a name is that of the bundled model.
pub fn is_bundled(name: &str) -> bool {
    [NAME, FORMER].contains(&name)
}

/// Its folder, in the diffusers layout.
pub(super) fn home() -> FileTree {
    FileTree::BuiltIn(NAME.into(), FILES.to_vec())
}

/// The files under `src/model/tabletop`, by relative path; those of weights with their SHA-256,
/// so that no run has to hash them to name the model.
macro_rules! files {
    ($($name:literal $(= $sha256:literal)?),+ $(,)?) => {
        &[$(($name, BuiltIn {
            bytes: include_bytes!(concat!("tabletop/", $name)),
            sha256: [$($sha256)?].first().copied(),
        })),+]
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
    "text_encoder/model.safetensors" =
        "1e6c696196762acdc482a67ae6fae639251ec358ee1bac3291c9d52318fa62be",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors" =
        "1c665d988d6877a4760bc68b926f9c970712e269d03c59f70ebb135e9012f3a0",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors" =
        "2948d10b0f51c5f63680b8d34c9f3ae8804dee3ad63a7fd408d85c6a77855b16",
    "forward.safetensors",
    "reverse.safetensors",
];

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn stated_hashes_are_those_of_the_content() {
        for (name, BuiltIn { bytes, sha256 }) in FILES {
            let own = format!("{:x}", Sha256::digest(bytes));
            assert_eq!(sha256.unwrap_or(&own), own, "{name}");
        }
    }
}
