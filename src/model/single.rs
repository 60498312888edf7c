//! Single-file checkpoints: Stable Diffusion's original layout, all networks in
//! one file, under the names that diffusers gives their tensors.
//!
//! The names are those of CompVis/stable-diffusion and Stability-AI/generative-
//! models; which block is which follows from the file itself.

use std::{collections::HashMap, fmt};

use crate::{
    error::{Error, Result},
    nn::{Checkpoint, View},
    source::Source,
};

/// A network of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Unet,
    Vae,
    /// The text encoder of this index.
    Text(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unet => "UNet",
            Self::Vae => "autoencoder",
            Self::Text(0) => "text encoder",
            Self::Text(_) => "second text encoder",
        })
    }
}

/// The views of a network's tensors by their names in diffusers.
type Views = HashMap<String, View>;

/// Opens a file for one network: as it is, or where it is a single-file
/// checkpoint as the part of it that is the network.
pub(super) fn open(file: impl Into<Source>, part: Part) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(file)?;
    let names = checkpoint.names();
    if !names.iter().any(|name| name.starts_with(UNET)) {
        return Ok(checkpoint);
    }
    let views = match part {
        Part::Unet => unet(&names),
        Part::Vae => vae(&names),
        Part::Text(index) => text(&checkpoint, &names, index),
    };
    match views.is_empty() {
        true => Err(Error::weights(
            checkpoint.file(),
            format!("this single-file checkpoint holds no {part}"),
        )),
        false => Ok(checkpoint.seen_as(views)),
    }
}

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
/// Where text encoders lie: the only one of SD1.x, the two of SDXL, the second
/// of which is an OpenCLIP.
const TEXT: [&str; 2] = [
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
];
const OPEN_CLIP: &str = "conditioner.embedders.1.model.";

/// The names below a prefix, with and without it.
fn below<'a>(
    names: &'a [String],
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a str)> + Clone {
    let own = move |name: &'a String| Some((name, name.strip_prefix(prefix)?));
    names.iter().filter_map(own)
}

fn unet(names: &[String]) -> Views {
    let own = below(names, UNET);
    // The first block that halves comes after conv_in and a level's blocks.
    let halving = own.clone().filter_map(|(_, name)| {
        let (index, rest) = numbered(name, "input_blocks.")?;
        rest.starts_with("0.op.").then_some(index)
    });
    let input_blocks = own
        .clone()
        .filter_map(|(_, name)| Some(numbered(name, "input_blocks.")?.0));
    let stride = halving
        .min()
        .or(input_blocks.max().map(|last| last + 1))
        .unwrap_or(1);
    let attends = |index: usize| {
        let prefix = format!("{UNET}output_blocks.{index}.1.transformer_blocks.");
        names.iter().any(|name| name.starts_with(&prefix))
    };
    let modern = |name: &str| {
        let (place, tail) = unet_block(name, stride, &attends)?;
        Some(format!("{place}.{tail}"))
    };
    own.filter_map(|(old, name)| Some((modern(name)?, View::of(old))))
        .collect()
}

/// The block of a UNet's tensor, and its name in there. `stride` is the number
/// of blocks of a level on the way down, its halving included.
fn unet_block(
    name: &str,
    stride: usize,
    attends: &dyn Fn(usize) -> bool,
) -> Option<(String, String)> {
    const ENDS: [(&str, &str); 8] = [
        ("time_embed.0.", "time_embedding.linear_1"),
        ("time_embed.2.", "time_embedding.linear_2"),
        ("time_embed.cond_proj.", "time_embedding.cond_proj"),
        ("label_emb.0.0.", "add_embedding.linear_1"),
        ("label_emb.0.2.", "add_embedding.linear_2"),
        ("input_blocks.0.0.", "conv_in"),
        ("out.0.", "conv_norm_out"),
        ("out.2.", "conv_out"),
    ];
    let end = ENDS
        .iter()
        .find_map(|(old, new)| Some((new, name.strip_prefix(old)?)));
    if let Some((place, tail)) = end {
        return Some(((*place).into(), tail.into()));
    }
    if let Some((index, rest)) = numbered(name, "input_blocks.") {
        let (level, block) = ((index - 1) / stride, (index - 1) % stride);
        let level = format!("down_blocks.{level}");
        return match numbered(rest, "")? {
            (0, rest) if rest.starts_with("op.") => {
                Some((format!("{level}.downsamplers.0.conv"), rest[3..].into()))
            }
            (0, rest) => Some((format!("{level}.resnets.{block}"), resnet(rest))),
            (_, rest) => Some((format!("{level}.attentions.{block}"), rest.into())),
        };
    }
    if let Some((index, rest)) = numbered(name, "middle_block.") {
        return match index {
            1 => Some(("mid_block.attentions.0".into(), rest.into())),
            _ => Some((format!("mid_block.resnets.{}", index / 2), resnet(rest))),
        };
    }
    let (index, rest) = numbered(name, "output_blocks.")?;
    let (level, block) = (format!("up_blocks.{}", index / stride), index % stride);
    match numbered(rest, "")? {
        (0, rest) => Some((format!("{level}.resnets.{block}"), resnet(rest))),
        (1, rest) if attends(index) => Some((format!("{level}.attentions.{block}"), rest.into())),
        (_, rest) => Some((
            format!("{level}.upsamplers.0.conv"),
            rest.strip_prefix("conv.")?.into(),
        )),
    }
}

/// The name of a tensor in a residual block.
fn resnet(name: &str) -> String {
    const NAMES: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    renamed(name, &NAMES)
}

fn vae(names: &[String]) -> Views {
    let own = below(names, VAE);
    let levels = own
        .clone()
        .filter_map(|(_, name)| Some(numbered(name, "decoder.up.")?.0));
    let coarsest = levels.max().unwrap_or(0);
    own.filter_map(|(old, name)| Some((vae_name(name, coarsest)?, View::of(old))))
        .collect()
}

fn vae_name(name: &str, coarsest: usize) -> Option<String> {
    const MIDDLE: [(&str, &str); 7] = [
        ("block_1.", "resnets.0."),
        ("block_2.", "resnets.1."),
        ("attn_1.norm.", "attentions.0.group_norm."),
        ("attn_1.q.", "attentions.0.to_q."),
        ("attn_1.k.", "attentions.0.to_k."),
        ("attn_1.v.", "attentions.0.to_v."),
        ("attn_1.proj_out.", "attentions.0.to_out.0."),
    ];
    const PLAIN: [(&str, &str); 3] = [
        ("norm_out.", "conv_norm_out."),
        ("conv_in.", "conv_in."),
        ("conv_out.", "conv_out."),
    ];
    let (coder, rest) = name.split_once('.')?;
    if coder.ends_with("quant_conv") {
        return Some(name.into());
    }
    let inside = if let Some(rest) = rest.strip_prefix("mid.") {
        format!("mid_block.{}", renamed(rest, &MIDDLE))
    } else if let Some((level, rest)) = numbered(rest, "down.") {
        format!("down_blocks.{level}.{}", vae_level(rest)?)
    } else if let Some((level, rest)) = numbered(rest, "up.") {
        format!(
            "up_blocks.{}.{}",
            coarsest.checked_sub(level)?,
            vae_level(rest)?
        )
    } else {
        renamed(rest, &PLAIN)
    };
    Some(format!("{coder}.{inside}"))
}

fn vae_level(name: &str) -> Option<String> {
    match name.split_once('.')? {
        ("block", rest) => Some(format!(
            "resnets.{}",
            rest.replace("nin_shortcut.", "conv_shortcut.")
        )),
        ("downsample", rest) => Some(format!("downsamplers.0.{rest}")),
        ("upsample", rest) => Some(format!("upsamplers.0.{rest}")),
        _ => None,
    }
}

fn text(checkpoint: &Checkpoint, names: &[String], index: usize) -> Views {
    if index == 0 {
        let own = TEXT.iter().flat_map(|prefix| below(names, prefix));
        return own
            .map(|(old, name)| (name.into(), View::of(old)))
            .collect();
    }
    let own = below(names, OPEN_CLIP);
    own.flat_map(|(old, name)| open_clip(checkpoint, old, name))
        .collect()
}

/// The tensors that one of an OpenCLIP's holds: three projections lie in one,
/// and the last one is the other way round.
fn open_clip(checkpoint: &Checkpoint, old: &str, name: &str) -> Vec<(String, View)> {
    const ENDS: [(&str, &str); 4] = [
        ("token_embedding.", "text_model.embeddings.token_embedding."),
        (
            "positional_embedding",
            "text_model.embeddings.position_embedding.weight",
        ),
        ("ln_final.", "text_model.final_layer_norm."),
        ("text_projection", "text_projection.weight"),
    ];
    const LAYER: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    let Some((layer, rest)) = numbered(name, "transformer.resblocks.") else {
        let view = match name {
            "text_projection" => View::of(old).transposed(),
            _ => View::of(old),
        };
        return vec![(renamed(name, &ENDS), view)];
    };
    let layer = format!("text_model.encoder.layers.{layer}");
    let Some(kind) = rest.strip_prefix("attn.in_proj_") else {
        return vec![(format!("{layer}.{}", renamed(rest, &LAYER)), View::of(old))];
    };
    let rows = checkpoint
        .shape(old)
        .and_then(|shape| shape.first().copied());
    let width = rows.unwrap_or(0) / 3;
    let projections = ["q_proj", "k_proj", "v_proj"].into_iter().enumerate();
    let part = |(i, projection)| {
        let view = View::of(old).rows(i * width..(i + 1) * width);
        (format!("{layer}.self_attn.{projection}.{kind}"), view)
    };
    projections.map(part).collect()
}

/// The number after a prefix, and what follows its dot.
fn numbered<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// A name whose beginning is one of the old ones, with the new one.
fn renamed(name: &str, table: &[(&str, &str)]) -> String {
    let found = table
        .iter()
        .find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)));
    found.unwrap_or_else(|| name.into())
}

#[cfg(test)]
mod tests;
