//! The finished model as the folder that the program carries: weights in 8 bits,
//! the distilled UNet, its two adapters, and an `icd.toml` that names them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use candle_core::Device;
use icd::io::{Checkpoint, Existing, Source, Tensors, safetensors_metadata, write_quantized};

use super::{Options, tokenizer};

const UNET: &str = "diffusion_pytorch_model.safetensors";
/// What edits and new pictures are guided by where nothing is asked for.
const GUIDANCE: f64 = 3.0;
/// Where the guidance of edits ends: of four steps only the last one is guided. Edits are as
/// often right as with two, and keep more of the rest.
const TAU: f64 = 0.5;

/// Writes the folder `bundle` of the output folder, from what all stages wrote.
pub(crate) fn write(options: &Options) -> Result<()> {
    let (out, bundle) = (&options.out, options.out.join("bundle"));
    for folder in ["scheduler", "tokenizer"] {
        for file in listed(&out.join("model").join(folder))? {
            copied(&file, &bundle.join(folder))?;
        }
    }
    copied(&out.join("model/model_index.json"), &bundle)?;
    for (from, to) in [
        ("model/text_encoder", "text_encoder"),
        ("model/vae", "vae"),
        ("guidance/unet", "unet"),
    ] {
        copied(&out.join(from).join("config.json"), &bundle.join(to))?;
        let weights = match to {
            "text_encoder" => "model.safetensors",
            _ => UNET,
        };
        stored(
            &out.join(from).join(weights),
            &bundle.join(to).join(weights),
        )?;
    }
    for direction in ["forward", "reverse"] {
        let files = listed(&out.join("consistency"))?;
        let adapter = files.iter().find(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(direction) && name.ends_with(".safetensors")
        });
        let adapter = adapter.with_context(|| format!("there is no {direction} adapter yet"))?;
        stored(adapter, &bundle.join(format!("{direction}.safetensors")))?;
    }
    let recipe = format!(
        "forward_adapter = \"forward.safetensors\"\nreverse_adapter = \"reverse.safetensors\"\n\
         guidance = {GUIDANCE:?}\ntau = {TAU:?}\nblend = \"difference\"\n\n\
         [trained_on]\nsquare = true\nwords = {:?}\n",
        Vec::from_iter(tokenizer::words(options.seed))
    );
    fs::write(bundle.join("icd.toml"), recipe)?;
    Ok(())
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn copied(file: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, folder.join(name)).with_context(|| file.display().to_string())?;
    Ok(())
}

/// A file of weights with its matrices and filters in 8 bits.
fn stored(from: &Path, to: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(from)?;
    let names = checkpoint.names().into_iter();
    let tensors = names.map(|name| Ok((name.clone(), checkpoint.load(&name, &Device::Cpu)?)));
    let tensors: Tensors = tensors.collect::<Result<_>>()?;
    Ok(write_quantized(
        to,
        &tensors,
        safetensors_metadata(&Source::from(from))?,
        Existing::Replace,
    )?)
}
