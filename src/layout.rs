//! The networks of a model, and their module names in Stable Diffusion's
//! original layout, that of CompVis/stable-diffusion and
//! Stability-AI/generative-models. Single-file checkpoints and kohya's SDXL
//! adapters use these names.

use std::fmt;

/// A network of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// The UNet.
    Unet,
    /// The autoencoder.
    Vae,
    /// The text encoder with this index.
    TextEncoder(usize),
}

impl Network {
    /// Its folder in the diffusers layout.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::TextEncoder(0) => "text_encoder",
            Self::TextEncoder(_) => "text_encoder_2",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unet => "UNet",
            Self::Vae => "autoencoder",
            Self::TextEncoder(0) => "text encoder",
            Self::TextEncoder(_) => "second text encoder",
        })
    }
}

/// Module names of a network: original, diffusers.
type Names = [(&'static str, &'static str)];

const UNET: &Names = &[
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("time_embed.cond_proj", "time_embedding.cond_proj"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("middle_block.1", "mid_block.attentions.0"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

const UNET_RESNET: &Names = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

const VAE: &Names = &[
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
];

/// The encoder and the decoder of a VAE.
const VAE_CODER: &Names = &[
    ("conv_in", "conv_in"),
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.block_2", "mid_block.resnets.1"),
    ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
    ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
    ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
    ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
    ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
    ("norm_out", "conv_norm_out"),
    ("conv_out", "conv_out"),
];

const VAE_RESNET: &Names = &[
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
];

const OPEN_CLIP: &Names = &[
    ("token_embedding", "text_model.embeddings.token_embedding"),
    (
        "positional_embedding",
        "text_model.embeddings.position_embedding.weight",
    ),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection.weight"),
];

const OPEN_CLIP_LAYER: &Names = &[
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn", "self_attn"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// The module names of one network in both layouts; none is a prefix of another.
#[derive(Debug, Default)]
pub(crate) struct Layout(Vec<[String; 2]>);

impl Layout {
    /// The layout of a UNet with these original tensor names.
    pub(crate) fn of_original_unet(names: &[&str]) -> Self {
        let count = count(names, "input_blocks.");
        let halves = |block: &usize| has(names, &format!("input_blocks.{block}.0.op."));
        let stride = (1..count).find(halves).unwrap_or(count).max(1);
        let attends = |level| {
            let last = (level + 1) * stride - 1;
            !has(names, &format!("output_blocks.{last}.1.conv."))
        };
        Self::unet(count.div_ceil(stride), stride, attends)
    }

    /// The layout of a UNet with these diffusers tensor names.
    pub(crate) fn of_diffusers_unet(names: &[&str]) -> Self {
        let stride = count(names, "down_blocks.0.resnets.") + 1;
        let attends = |level| has(names, &format!("up_blocks.{level}.attentions."));
        Self::unet(count(names, "down_blocks."), stride, attends)
    }

    /// The layout of a UNet whose up blocks have `stride` layers each, as do its
    /// down blocks with the downsampler included; `attends` returns whether an up
    /// block has attention.
    fn unet(levels: usize, stride: usize, attends: impl Fn(usize) -> bool) -> Self {
        let mut layout = Self::default();
        layout.add("", "", UNET);
        layout.add("middle_block.0.", "mid_block.resnets.0.", UNET_RESNET);
        layout.add("middle_block.2.", "mid_block.resnets.1.", UNET_RESNET);
        for level in 0..levels {
            let (first, last) = (level * stride, (level + 1) * stride - 1);
            let (down, up) = (
                format!("down_blocks.{level}."),
                format!("up_blocks.{level}."),
            );
            for i in 0..stride - 1 {
                layout.unet_block(&format!("input_blocks.{}.", first + 1 + i), &down, i, true);
            }
            let name = format!("input_blocks.{}.0.", last + 1);
            layout.add(&name, &down, &[("op", "downsamplers.0.conv")]);
            for i in 0..stride {
                let name = format!("output_blocks.{}.", first + i);
                layout.unet_block(&name, &up, i, attends(level));
            }
            let name = format!("output_blocks.{last}.{}.", 1 + usize::from(attends(level)));
            layout.add(&name, &up, &[("conv", "upsamplers.0.conv")]);
        }
        layout
    }

    fn unet_block(&mut self, original: &str, level: &str, index: usize, attends: bool) {
        let resnet = format!("{level}resnets.{index}.");
        self.add(&format!("{original}0."), &resnet, UNET_RESNET);
        if attends {
            let attention = format!("{level}attentions.{index}");
            self.0.push([format!("{original}1"), attention]);
        }
    }

    /// The layout of a VAE with these original tensor names.
    pub(crate) fn of_original_vae(names: &[&str]) -> Self {
        let levels = count(names, "decoder.up.");
        let blocks = count(names, "decoder.up.0.block.");
        let mut layout = Self::default();
        layout.add("", "", VAE);
        layout.add("encoder.", "encoder.", VAE_CODER);
        layout.add("decoder.", "decoder.", VAE_CODER);
        for level in 0..levels {
            let down = format!("encoder.down_blocks.{level}.");
            layout.vae_level(&format!("encoder.down.{level}."), &down, blocks);
            let up = format!("decoder.up_blocks.{}.", levels - 1 - level);
            layout.vae_level(&format!("decoder.up.{level}."), &up, blocks);
        }
        layout
    }

    fn vae_level(&mut self, original: &str, level: &str, blocks: usize) {
        const SAMPLERS: &Names = &[
            ("downsample", "downsamplers.0"),
            ("upsample", "upsamplers.0"),
        ];
        self.add(original, level, SAMPLERS);
        for i in 0..blocks {
            let resnet = format!("{level}resnets.{i}.");
            self.add(&format!("{original}block.{i}."), &resnet, VAE_RESNET);
        }
    }

    /// The layout of an OpenCLIP text encoder with these original tensor names.
    pub(crate) fn of_open_clip(names: &[&str]) -> Self {
        const LAYERS: &str = "transformer.resblocks.";
        let mut layout = Self::default();
        layout.add("", "", OPEN_CLIP);
        for i in 0..count(names, LAYERS) {
            let layer = format!("text_model.encoder.layers.{i}.");
            layout.add(&format!("{LAYERS}{i}."), &layer, OPEN_CLIP_LAYER);
        }
        layout
    }

    fn add(&mut self, original: &str, diffusers: &str, names: &Names) {
        let name = |&(a, b): &(_, _)| [format!("{original}{a}"), format!("{diffusers}{b}")];
        self.0.extend(names.iter().map(name));
    }

    /// The diffusers name of a module or tensor.
    pub(crate) fn to_diffusers(&self, original: &str) -> Option<String> {
        let renamed = |[a, b]: &[String; 2]| renamed(original, a, b);
        self.0.iter().find_map(renamed)
    }

    /// The original name of a module or tensor.
    pub(crate) fn to_original(&self, diffusers: &str) -> Option<String> {
        let renamed = |[a, b]: &[String; 2]| renamed(diffusers, b, a);
        self.0.iter().find_map(renamed)
    }
}

/// `name` with its prefix `module` replaced by `other`, if it is in that module.
fn renamed(name: &str, module: &str, other: &str) -> Option<String> {
    let tail = name.strip_prefix(module)?;
    (tail.is_empty() || tail.starts_with('.')).then(|| format!("{other}{tail}"))
}

fn has(names: &[&str], prefix: &str) -> bool {
    names.iter().any(|name| name.starts_with(prefix))
}

/// One more than the largest number that follows `prefix`. Names are strangers': numbers
/// beyond those of any network, of which 300 blocks would be many, are not counted.
fn count(names: &[&str], prefix: &str) -> usize {
    let number = |name: &&str| name.strip_prefix(prefix)?.split('.').next()?.parse().ok();
    let numbers = names.iter().filter_map(number).filter(|n: &usize| *n < 300);
    numbers.max().map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests;
