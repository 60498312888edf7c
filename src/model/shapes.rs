//! The model `shapes`, built into the program: trained by the programs in `examples/`
//! (see `ORIGIN.md` among its files) on synthetic 64-pixel pictures of simple objects on
//! simple backgrounds. It demonstrates edits offline; it does not model real pictures.

use crate::{
    hub::{BuiltInFile, FileTree},
    io::BuiltIn,
};

/// Its name for `--model`.
pub(super) const NAME: &str = "shapes";

/// Its folder, in the diffusers layout.
pub(super) fn home() -> FileTree {
    FileTree::BuiltIn(NAME.into(), FILES.to_vec())
}

/// The files under `src/model/shapes`, by relative path; those of weights with their SHA-256,
/// so that no run has to hash them to name the model.
macro_rules! files {
    ($($name:literal $(= $sha256:literal)?),+ $(,)?) => {
        &[$(($name, BuiltIn {
            bytes: include_bytes!(concat!("shapes/", $name)),
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
        "fa3f0e92d85ac8e7feae685ab35c93d3155e4fe1686f4f3bcb2dc991b3e179d7",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors" =
        "0efae415ef102499313aa2b08223bc0f069bffbedbc546259869116311c5cda7",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors" =
        "c9062a495e2b4a827f9c2004a650c8851951f81e305dffb3a8469ad1463e7415",
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
