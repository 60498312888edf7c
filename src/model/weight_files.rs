//! The names of weights in the folder of a network: diffusers' and transformers', with any
//! variant (`fp16`, `non_ema`).

use std::{fs, path::Path};

use crate::{
    error::Result,
    hub::{FileTree, Location},
    io::Source,
};

/// The names of one kind of weights with the variants that are published.
macro_rules! names {
    ($safetensors:literal, $bin:literal) => {
        [
            concat!($safetensors, ".safetensors"),
            concat!($safetensors, ".safetensors.index.json"),
            concat!($safetensors, ".fp16.safetensors"),
            concat!($safetensors, ".safetensors.index.fp16.json"),
            concat!($safetensors, ".bf16.safetensors"),
            concat!($safetensors, ".safetensors.index.bf16.json"),
            concat!($safetensors, ".fp32.safetensors"),
            concat!($safetensors, ".ema.safetensors"),
            concat!($safetensors, ".non_ema.safetensors"),
            concat!($bin, ".bin"),
            concat!($bin, ".bin.index.json"),
            concat!($bin, ".fp16.bin"),
            concat!($bin, ".bin.index.fp16.json"),
            concat!($bin, ".non_ema.bin"),
        ]
    };
}

/// The names of a UNet's or an autoencoder's weights, the preferred first.
pub(crate) const NETWORK_FILES: [&str; 14] =
    names!("diffusion_pytorch_model", "diffusion_pytorch_model");

/// The names of a text encoder's weights, the preferred first.
pub(super) const ENCODER_FILES: [&str; 14] = names!("model", "pytorch_model");

/// A file by its name, or the first of `names` in a folder; in a local folder else the first
/// that has another variant.
pub(super) fn find(place: &Location, names: &[&str]) -> Result<Source> {
    place.file(names).or_else(|missing| match place {
        Location::Folder(FileTree::Folder(folder)) => {
            other_variant(folder, names).map_or(Err(missing), |name| Ok(folder.join(name).into()))
        }
        _ => Err(missing),
    })
}

/// The first file of a folder whose name is one of `names` with a variant.
fn other_variant(folder: &Path, names: &[&str]) -> Option<String> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut files: Vec<_> = files
        .filter_map(|file| file.file_name().into_string().ok())
        .collect();
    files.sort_unstable();
    let found = |plain: &&str| files.iter().find(|file| is_variant(file, plain));
    names.iter().find_map(found).cloned()
}

/// Whether `name` is `plain` with a variant before its ending: in `model.x.safetensors` and
/// `model.safetensors.index.x.json` it is `x`. Shards have no name of their own.
fn is_variant(name: &str, plain: &str) -> bool {
    let Some((begin, end)) = plain.rsplit_once('.') else {
        return false;
    };
    let variant = name.strip_prefix(begin);
    let variant = variant.and_then(|rest| rest.strip_suffix(end)?.strip_suffix('.'));
    let variant = variant.and_then(|rest| rest.strip_prefix('.'));
    variant.is_some_and(|variant| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !variant.is_empty() && variant.chars().all(is_word) && !variant.contains("-of-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_any_variant_are_found() {
        for (files, found) in [
            (
                &["model.fp8.safetensors", "pytorch_model.bin"][..],
                Some("pytorch_model.bin"),
            ),
            (
                &["model.fp8.safetensors", "config.json"],
                Some("model.fp8.safetensors"),
            ),
            (
                &["model.safetensors.index.x_1.json"],
                Some("model.safetensors.index.x_1.json"),
            ),
            (
                &["model.fp16.safetensors", "model.safetensors"],
                Some("model.safetensors"),
            ),
            (&["model.fp16-00001-of-00002.safetensors"], None),
            (
                &[
                    "model.a.b.safetensors",
                    "models.safetensors",
                    "model..safetensors",
                ],
                None,
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for file in files {
                fs::write(folder.path().join(file), "").unwrap();
            }
            let place = Location::Folder(FileTree::Folder(folder.path().into()));
            let file = find(&place, &ENCODER_FILES).ok();
            let name = file.map(|file| file.name().file_name().unwrap().to_owned());
            assert_eq!(name, found.map(Into::into), "{files:?}");
        }
    }
}
