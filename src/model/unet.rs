//! The UNet (`UNet2DConditionModel`): one definition for SD1.5, SDXL and other sizes
//! (arXiv 2112.10752, arXiv 2307.01952, in the layout of diffusers).

use candle_core::{DType, Tensor};

use super::{
    Conditioning,
    attention::{AttentionControl, BlockPlace, KeyValues, Site, Transformer, TransformerShape},
    resnet::{Norm, Resnet},
};
use crate::{
    error::{Error, Result},
    nn::{Conv2d, GradientSink, GroupNorm, Stride, Weights, channels_first, channels_last},
    schedule::Timestep,
};
use blocks::{BlockInputs, UnetBlock};
use embedding::{Embedding, PooledText, TimeCondProj};

/// One resolution level of the UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Transformer blocks after each residual block of the down block; 0 for none.
    pub transformer_layers: usize,
    /// The same in the up block.
    pub transformer_layers_up: usize,
    /// Residual blocks of the down block; the up block has one more.
    pub blocks: usize,
}

/// The configuration of a UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// Channels of the latent.
    pub in_channels: usize,
    /// The resolution levels, finest first.
    pub levels: Vec<Level>,
    /// Transformer blocks in the middle block; 0 for none.
    pub mid_transformer_layers: usize,
    /// Width of the text encoder hidden states.
    pub cross_attention_dim: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// SDXL's added conditioning.
    pub pooled: Option<PooledText>,
    /// The guidance embedding.
    pub time_cond_proj: TimeCondProj,
    /// Side of the latent that the network was trained on.
    pub sample_size: usize,
}

impl UnetConfig {
    /// Stable Diffusion 1.5.
    pub fn sd15() -> Self {
        let level = |channels, transformer_layers| Level {
            channels,
            heads: 8,
            transformer_layers,
            transformer_layers_up: transformer_layers,
            blocks: 2,
        };
        Self {
            in_channels: 4,
            levels: vec![level(320, 1), level(640, 1), level(1280, 1), level(1280, 0)],
            mid_transformer_layers: 1,
            cross_attention_dim: 768,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            pooled: None,
            time_cond_proj: TimeCondProj::AsStored,
            sample_size: 64,
        }
    }

    /// Stable Diffusion XL.
    pub fn sdxl() -> Self {
        let level = |channels, heads, transformer_layers| Level {
            channels,
            heads,
            transformer_layers,
            transformer_layers_up: transformer_layers,
            blocks: 2,
        };
        Self {
            levels: vec![level(320, 5, 0), level(640, 10, 2), level(1280, 20, 10)],
            mid_transformer_layers: 10,
            cross_attention_dim: 2048,
            pooled: Some(PooledText {
                width: 1280,
                size_width: 256,
            }),
            sample_size: 128,
            ..Self::sd15()
        }
    }

    /// The levels with attention, as numbers of downsamplings.
    pub fn attentive_levels(&self) -> Vec<usize> {
        let attends =
            |level: &Level| level.transformer_layers > 0 || level.transformer_layers_up > 0;
        (0..self.levels.len())
            .filter(|&i| attends(&self.levels[i]))
            .collect()
    }

    /// Number of transformer blocks, each with a layer of self- and one of cross-attention.
    pub fn transformer_blocks(&self) -> usize {
        let levels = self.levels.iter();
        let up = levels.map(|level| (level.blocks + 1) * level.transformer_layers_up);
        self.down_sites() + self.mid_transformer_layers + up.sum::<usize>()
    }

    /// Number of transformer blocks in the down blocks; the indices of those in the middle
    /// and up blocks follow.
    fn down_sites(&self) -> usize {
        let levels = self.levels.iter();
        levels
            .map(|level| level.blocks * level.transformer_layers)
            .sum()
    }

    /// The channels of the skip connections, in the order of the down blocks.
    fn skips(&self) -> Vec<usize> {
        let last = self.levels.len().saturating_sub(1);
        let of_level = |(i, level): (usize, &Level)| {
            vec![level.channels; level.blocks + usize::from(i < last)]
        };
        let kept = self.levels.iter().enumerate().flat_map(of_level);
        [self.levels[0].channels].into_iter().chain(kept).collect()
    }

    /// Residual block `i` of the blocks at `w`.
    fn resnet(&self, w: &Weights, i: usize, inputs: usize, outputs: usize) -> Result<Resnet> {
        let norm = Norm {
            groups: self.norm_num_groups,
            eps: self.norm_eps,
        };
        let time = 4 * self.levels[0].channels;
        Resnet::new(&w.at("resnets").at(i), inputs, outputs, norm, Some(time))
    }

    /// The `count` transformers at `w`; none if `transformer_layers` is 0.
    fn transformers(
        &self,
        w: &Weights,
        level: Level,
        transformer_layers: usize,
        count: usize,
    ) -> Result<Vec<Transformer>> {
        let shape = TransformerShape {
            channels: level.channels,
            heads: level.heads,
            transformer_layers,
            cross_attention_dim: self.cross_attention_dim,
            groups: self.norm_num_groups,
        };
        let count = if transformer_layers == 0 { 0 } else { count };
        let transformer = |i| Transformer::new(&w.at("attentions").at(i), shape);
        (0..count).map(transformer).collect()
    }
}

/// The inputs of a UNet evaluation.
#[derive(Clone, Copy)]
pub struct UnetInput<'a> {
    /// The latents (rows, 4, h, w).
    pub latent: &'a Tensor,
    /// The timestep of each row.
    pub times: &'a [Timestep],
    /// The guidance strength of each row.
    pub guidance: &'a [f64],
    /// The text of each row, from [`Unet::prepare`].
    pub text: &'a PreparedText,
}

/// The text's keys and values for every cross-attention layer.
#[derive(Clone, Debug)]
pub struct PreparedText {
    /// Per UNet block, transformer and block, in evaluation order.
    blocks: Vec<Vec<Vec<KeyValues>>>,
    pooled: Option<Tensor>,
}

/// A noise-prediction UNet.
#[derive(Debug)]
pub struct Unet {
    embedding: Embedding,
    conv_in: Conv2d,
    down_blocks: Vec<UnetBlock>,
    mid_block: UnetBlock,
    up_blocks: Vec<UnetBlock>,
    norm: GroupNorm,
    conv_out: Conv2d,
    compute: DType,
}

impl Unet {
    /// Loads a UNet with this configuration.
    pub fn new(w: &Weights, config: UnetConfig) -> Result<Self> {
        let first = config.levels[0].channels;
        let ends = w.placement().of_ends();
        let end = w.with_placement(&ends);
        // Reading files and packing weights each half-load a core: load two halves in parallel.
        let ((down, mid), up) = rayon::join(
            || (down_blocks(w, &config), mid_block(w, &config)),
            || up_blocks(w, &config),
        );
        Ok(Self {
            embedding: Embedding::new(w, &config)?,
            conv_in: end
                .at("conv_in")
                .conv(config.in_channels, first, 3, Stride::One)?,
            down_blocks: down?,
            mid_block: mid?,
            up_blocks: up?,
            norm: w.at("conv_norm_out").group_norm(
                first,
                config.norm_num_groups,
                config.norm_eps,
            )?,
            conv_out: end
                .at("conv_out")
                .conv(first, config.in_channels, 3, Stride::One)?,
            compute: w.placement().compute_dtype(),
        })
    }

    /// Enables gradient checkpointing for training: activations inside blocks are not
    /// kept but recomputed in the backward pass, which puts the gradients of the
    /// blocks' weights in `sink`. Attention control is not supported.
    pub fn with_gradient_checkpointing(self, sink: &GradientSink) -> Self {
        let enabled = |block: UnetBlock| block.with_gradient_checkpointing(sink);
        let all = |blocks: Vec<UnetBlock>| blocks.into_iter().map(enabled).collect();
        Self {
            down_blocks: all(self.down_blocks),
            mid_block: enabled(self.mid_block),
            up_blocks: all(self.up_blocks),
            ..self
        }
    }

    /// Whether it has a guidance embedding (was guidance-distilled).
    pub fn takes_guidance(&self) -> bool {
        self.embedding.takes_guidance()
    }

    /// Computes the text's keys and values, for reuse in any number of evaluations.
    pub fn prepare(&self, text: &Conditioning) -> Result<PreparedText> {
        let tokens = text.hidden_states.to_dtype(self.compute)?;
        let blocks = self
            .down_blocks
            .iter()
            .chain([&self.mid_block])
            .chain(&self.up_blocks);
        Ok(PreparedText {
            blocks: blocks
                .map(|block| block.keys_values(&tokens))
                .collect::<Result<_>>()?,
            pooled: text.pooled.clone(),
        })
    }

    /// The predicted noise (rows, 4, h, w), in f32.
    pub fn forward(&self, input: UnetInput, control: &mut dyn AttentionControl) -> Result<Tensor> {
        let UnetInput {
            latent,
            times,
            guidance,
            text,
        } = input;
        let time = self
            .embedding
            .forward(times, guidance, text.pooled.as_ref())?;
        let mut texts = text.blocks.iter();
        let mut inputs = || BlockInputs {
            time: &time,
            text: texts.next().map_or(&[], Vec::as_slice),
        };

        let latent = channels_last(&latent.to_dtype(self.compute)?)?;
        let mut x = self.conv_in.forward(&latent)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.down(x, inputs(), &mut skips, control)?;
        }
        x = self.mid_block.down(x, inputs(), &mut Vec::new(), control)?;
        for block in &self.up_blocks {
            x = block.up(x, inputs(), &mut skips, control)?;
        }
        let eps = self.conv_out.forward(&self.norm.forward_silu(&x)?)?;
        Ok(channels_first(&eps)?.to_dtype(DType::F32)?)
    }
}

fn down_blocks(w: &Weights, config: &UnetConfig) -> Result<Vec<UnetBlock>> {
    let mut channels = config.levels[0].channels;
    let mut index = 0;
    let block = |(i, &level): (usize, &Level)| {
        let w = w.at("down_blocks").at(i);
        let inputs = |block| if block == 0 { channels } else { level.channels };
        let resnet = |i| config.resnet(&w, i, inputs(i), level.channels);
        let resnets = (0..level.blocks).map(resnet);
        let resnets = resnets.collect::<Result<_>>()?;
        channels = level.channels;
        let halves = i + 1 < config.levels.len();
        let halve = w.at("downsamplers.0.conv");
        let halve = halves
            .then(|| halve.conv(channels, channels, 3, Stride::Two))
            .transpose()?;
        let layers = level.transformer_layers;
        let transformers = config.transformers(&w, level, layers, level.blocks)?;
        let site = Site {
            index,
            ..Site::at(BlockPlace::Down, i)
        };
        index += level.blocks * layers;
        Ok(UnetBlock::new(w.ops(), site, resnets, transformers, halve))
    };
    config.levels.iter().enumerate().map(block).collect()
}

fn mid_block(w: &Weights, config: &UnetConfig) -> Result<UnetBlock> {
    let w = w.at("mid_block");
    let level = *config
        .levels
        .last()
        .ok_or_else(|| Error::setting("a UNet needs at least one level"))?;
    let resnets = (0..2).map(|i| config.resnet(&w, i, level.channels, level.channels));
    let transformers = config.transformers(&w, level, config.mid_transformer_layers, 1)?;
    let site = Site {
        index: config.down_sites(),
        ..Site::at(BlockPlace::Mid, config.levels.len() - 1)
    };
    Ok(UnetBlock::new(
        w.ops(),
        site,
        resnets.collect::<Result<_>>()?,
        transformers,
        None,
    ))
}

fn up_blocks(w: &Weights, config: &UnetConfig) -> Result<Vec<UnetBlock>> {
    let mut channels = config.levels.last().map_or(0, |level| level.channels);
    let mut skips = config.skips();
    let mut index = config.down_sites() + config.mid_transformer_layers;
    let block = |(i, (halvings, &level)): (usize, (usize, &Level))| {
        let w = w.at("up_blocks").at(i);
        let blocks = level.blocks + 1;
        let resnets = (0..blocks).map(|i| {
            let inputs = channels
                + skips
                    .pop()
                    .expect("a skip connection for each resnet of the up blocks");
            channels = level.channels;
            config.resnet(&w, i, inputs, channels)
        });
        let resnets = resnets.collect::<Result<_>>()?;
        let conv = w.at("upsamplers.0.conv");
        let conv = (halvings > 0)
            .then(|| conv.conv(channels, channels, 3, Stride::One))
            .transpose()?;
        let layers = level.transformer_layers_up;
        let transformers = config.transformers(&w, level, layers, blocks)?;
        let site = Site {
            index,
            ..Site::at(BlockPlace::Up, halvings)
        };
        index += blocks * layers;
        Ok(UnetBlock::new(w.ops(), site, resnets, transformers, conv))
    };
    config
        .levels
        .iter()
        .enumerate()
        .rev()
        .enumerate()
        .map(block)
        .collect()
}

pub mod blocks;
pub mod embedding;
#[cfg(test)]
mod tests;
