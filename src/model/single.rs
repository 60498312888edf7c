//! Single-file checkpoints: all networks in one file of Stable Diffusion's
//! original layout, with tensors mapped to their diffusers names.

use std::collections::BTreeMap;

use super::tensors;
use crate::{
    error::{Error, Result},
    io::{Checkpoint, Source, View},
    layout::{Layout, Network},
};

/// Views of a network's tensors by their diffusers names.
type Views = BTreeMap<String, View>;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
/// Prefixes of the text encoder of SD1.x and of SDXL's first.
const CLIP: [&str; 2] = [
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
];
const OPEN_CLIP: &str = "conditioner.embedders.1.model.";

/// Opens a file for one network: all of it, or only the network's part of a
/// single-file checkpoint.
pub(super) fn open(file: impl Into<Source>, network: Network) -> Result<Checkpoint> {
    let source = file.into();
    let checkpoint = Checkpoint::open(&source)?;
    tensors::check_family(&source, &checkpoint)?;
    if !checkpoint.has_prefix(UNET) {
        return Ok(checkpoint);
    }
    match part(&checkpoint, network)? {
        views if views.is_empty() => Err(Error::weights(
            checkpoint.file(),
            format!("this single-file checkpoint holds no {network}"),
        )),
        views => Ok(checkpoint.seen_as(views)),
    }
}

/// Whether a file is a single-file checkpoint without this network; one of another family
/// is an error, although it lacks networks under these names.
pub(super) fn lacks(source: &Source, network: Network) -> Result<bool> {
    let file = Checkpoint::open(source)?;
    tensors::check_family(source, &file)?;
    let has = |prefix: &&str| file.has_prefix(prefix);
    Ok(file.has_prefix(UNET) && !prefixes(network).iter().any(has))
}

/// The beginnings of the names of a network's tensors.
fn prefixes(network: Network) -> &'static [&'static str] {
    match network {
        Network::Unet => &[UNET],
        Network::Vae => &[VAE],
        Network::TextEncoder(0) => &CLIP,
        Network::TextEncoder(_) => &[OPEN_CLIP],
    }
}

fn part(checkpoint: &Checkpoint, network: Network) -> Result<Views> {
    let views = |prefix, layout| views(checkpoint, network, prefix, layout);
    match network {
        Network::Unet => views(UNET, Layout::of_original_unet),
        Network::Vae => views(VAE, Layout::of_original_vae),
        Network::TextEncoder(0) => Ok(clip(&checkpoint.names())),
        Network::TextEncoder(_) => {
            let whole = views(OPEN_CLIP, Layout::of_open_clip)?;
            let parts = whole
                .into_iter()
                .flat_map(|tensor| unpacked(checkpoint, tensor));
            Ok(parts.collect())
        }
    }
}

/// The names with a prefix, stripped of it.
fn below<'a>(names: &'a [String], prefix: &str) -> Vec<&'a str> {
    let names = names.iter();
    names.filter_map(|name| name.strip_prefix(prefix)).collect()
}

/// The tensors with a prefix by their diffusers names. One that has none must be harmless.
fn views(
    checkpoint: &Checkpoint,
    network: Network,
    prefix: &str,
    layout: fn(&[&str]) -> Layout,
) -> Result<Views> {
    let names = checkpoint.names();
    let names = below(&names, prefix);
    let layout = layout(&names);
    let mut views = Views::new();
    for name in names {
        let whole = format!("{prefix}{name}");
        match layout.to_diffusers(name) {
            Some(renamed) => {
                views.insert(renamed, View::of(whole));
            }
            None if tensors::is_harmless(name, network) => {}
            None => return Err(tensors::left_over(checkpoint, &whole, network)),
        }
    }
    Ok(views)
}

fn clip(names: &[String]) -> Views {
    let encoder = |prefix: &&str| {
        let view = |name: &str| (name.to_owned(), View::of(format!("{prefix}{name}")));
        below(names, prefix)
            .into_iter()
            .map(view)
            .collect::<Vec<_>>()
    };
    CLIP.iter().flat_map(encoder).collect()
}

/// Maps a tensor of an OpenCLIP to those of transformers: OpenCLIP fuses the q, k and v
/// projections and stores the text projection transposed.
fn unpacked(checkpoint: &Checkpoint, (name, view): (String, View)) -> Vec<(String, View)> {
    if name == "text_projection.weight" {
        return vec![(name, view.transposed())];
    }
    let Some((attention, kind)) = name.split_once(".in_proj_") else {
        return vec![(name, view)];
    };
    let shape = checkpoint.shape(view.name());
    let width = shape.and_then(|shape| shape.first().copied()).unwrap_or(0) / 3;
    let projections = ["q_proj", "k_proj", "v_proj"].into_iter().enumerate();
    let part = |(i, projection)| {
        let rows = i * width..(i + 1) * width;
        (
            format!("{attention}.{projection}.{kind}"),
            view.clone().rows(rows),
        )
    };
    projections.map(part).collect()
}
