//! Vision transformers in the names of facebookresearch/dino and dinov2, which timm has, too,
//! as those of transformers.

use std::collections::BTreeMap;

use crate::io::{Checkpoint, View};

/// Original, transformers.
const NAMES: [(&str, &str); 7] = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    (
        "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.weight",
    ),
    (
        "patch_embed.proj.bias",
        "embeddings.patch_embeddings.projection.bias",
    ),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
    ("mask_token", "embeddings.mask_token"),
];

/// Those of a block.
const OF_BLOCK: [(&str, &str); 12] = [
    ("norm1.weight", "norm1.weight"),
    ("norm1.bias", "norm1.bias"),
    ("norm2.weight", "norm2.weight"),
    ("norm2.bias", "norm2.bias"),
    ("attn.proj.weight", "attention.output.dense.weight"),
    ("attn.proj.bias", "attention.output.dense.bias"),
    ("mlp.fc1.weight", "mlp.fc1.weight"),
    ("mlp.fc1.bias", "mlp.fc1.bias"),
    ("mlp.fc2.weight", "mlp.fc2.weight"),
    ("mlp.fc2.bias", "mlp.fc2.bias"),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
];

/// The parts of the joint projection, in its order.
const JOINED: [&str; 3] = ["query", "key", "value"];

/// The checkpoint with the names of transformers, whatever names it has.
pub(super) fn renamed(checkpoint: Checkpoint) -> Checkpoint {
    if !checkpoint.has_prefix("blocks.") {
        return checkpoint;
    }
    let mut views = BTreeMap::new();
    for name in checkpoint.names() {
        if let Some((_, new)) = NAMES.iter().find(|(old, _)| *old == name) {
            views.insert((*new).to_owned(), View::of(name));
        } else if let Some((block, rest)) = of_block(&name) {
            let layer = format!("encoder.layer.{block}.");
            views.extend(
                views_of(&checkpoint, &name, rest).map(|(new, view)| (layer.clone() + &new, view)),
            );
        }
    }
    checkpoint.seen_as(views)
}

/// The number of the block of a tensor, and its name in it.
fn of_block(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blocks.")?.split_once('.')
}

/// What a tensor of a block is in the names of transformers.
fn views_of(
    checkpoint: &Checkpoint,
    name: &str,
    rest: &str,
) -> impl Iterator<Item = (String, View)> {
    let kind = rest.strip_prefix("attn.qkv.");
    let rows = checkpoint
        .shape(name)
        .and_then(|shape| shape.first().copied());
    let third = rows.unwrap_or(0) / JOINED.len();
    let parts = JOINED.into_iter().enumerate().filter_map(move |(i, part)| {
        let new = format!("attention.attention.{part}.{}", kind?);
        Some((new, (i * third, (i + 1) * third)))
    });
    let other = OF_BLOCK.iter().find(|(old, _)| *old == rest);
    let whole = View::of(name);
    let other = other.map(|(_, new)| ((*new).to_owned(), whole.clone()));
    let parts: Vec<_> = parts
        .map(|(new, (from, to))| (new, whole.clone().rows(from..to)))
        .collect();
    parts.into_iter().chain(other)
}
