//! The UNet: one definition for SD1.5, SDXL and every size of that family
//! (arXiv 2112.10752, arXiv 2307.01952, in the layout of diffusers).

use candle_core::{DType, Tensor};

use super::{
    Conditioning,
    attention::{AttentionControl, Context, Place, Transformer, TransformerShape},
    embedding::{Embedding, PooledText},
    stage::{Conditions, Norm, Resnet, Stage},
};
use crate::{
    error::{Error, Result},
    nn::{Aside, Conv2d, GroupNorm, Stride, Weights, channels_first, channels_last},
    schedule::Timestep,
};

/// One resolution of the UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Transformer blocks behind each residual block on the way down; 0 is none.
    pub depth: usize,
    /// The same on the way up.
    pub depth_up: usize,
    /// Residual blocks on the way down; one more on the way up.
    pub blocks: usize,
}

/// The measures of a UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// Channels of the latent.
    pub latent_channels: usize,
    /// The resolutions, finest first.
    pub levels: Vec<Level>,
    /// Transformer blocks in the middle; 0 is none.
    pub middle_depth: usize,
    /// Width of the text states.
    pub text_width: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// What the norms add to the variance.
    pub eps: f64,
    /// SDXL's added conditioning.
    pub pooled: Option<PooledText>,
    /// Side of the latent the network was trained on.
    pub side: usize,
}

impl UnetConfig {
    /// Stable Diffusion 1.5.
    pub fn sd15() -> Self {
        let level = |channels, depth| Level {
            channels,
            heads: 8,
            depth,
            depth_up: depth,
            blocks: 2,
        };
        Self {
            latent_channels: 4,
            levels: vec![level(320, 1), level(640, 1), level(1280, 1), level(1280, 0)],
            middle_depth: 1,
            text_width: 768,
            groups: 32,
            eps: 1e-5,
            pooled: None,
            side: 64,
        }
    }

    /// Stable Diffusion XL.
    pub fn sdxl() -> Self {
        let level = |channels, heads, depth| Level {
            channels,
            heads,
            depth,
            depth_up: depth,
            blocks: 2,
        };
        Self {
            levels: vec![level(320, 5, 0), level(640, 10, 2), level(1280, 20, 10)],
            middle_depth: 10,
            text_width: 2048,
            pooled: Some(PooledText {
                width: 1280,
                size_width: 256,
            }),
            side: 128,
            ..Self::sd15()
        }
    }

    /// The levels that attend, as counts of halvings.
    pub fn attentive_levels(&self) -> Vec<usize> {
        let attends = |level: &Level| level.depth > 0 || level.depth_up > 0;
        (0..self.levels.len())
            .filter(|&i| attends(&self.levels[i]))
            .collect()
    }

    /// The channels of every result kept on the way down, in their order.
    fn skips(&self) -> Vec<usize> {
        let last = self.levels.len().saturating_sub(1);
        let of_level = |(i, level): (usize, &Level)| {
            vec![level.channels; level.blocks + usize::from(i < last)]
        };
        let kept = self.levels.iter().enumerate().flat_map(of_level);
        [self.levels[0].channels].into_iter().chain(kept).collect()
    }

    fn norm(&self) -> Norm {
        Norm {
            groups: self.groups,
            eps: self.eps,
        }
    }

    fn time_width(&self) -> usize {
        4 * self.levels[0].channels
    }

    fn transformer(&self, level: Level, depth: usize) -> TransformerShape {
        let Level {
            channels, heads, ..
        } = level;
        TransformerShape {
            channels,
            heads,
            depth,
            text_width: self.text_width,
            groups: self.groups,
        }
    }
}

/// What the network predicts the noise from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The latents (rows, 4, h, w).
    pub latent: &'a Tensor,
    /// The timestep of each row.
    pub times: &'a [Timestep],
    /// The guidance strength of each row.
    pub guidance: &'a [f64],
    /// The text of each row, as [`Unet::read`] read it.
    pub text: &'a ReadText,
}

/// A text as every site of a network reads it.
#[derive(Clone, Debug)]
pub struct ReadText {
    /// Per stage, transformer and block, in the order of the evaluation.
    stages: Vec<Vec<Vec<Context>>>,
    pooled: Option<Tensor>,
}

/// A network that predicts the noise in a latent.
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    embedding: Embedding,
    enter: Conv2d,
    down: Vec<Stage>,
    middle: Stage,
    up: Vec<Stage>,
    norm: GroupNorm,
    leave: Conv2d,
    compute: DType,
}

impl Unet {
    /// Reads a UNet of these measures.
    pub fn new(w: &Weights, config: UnetConfig) -> Result<Self> {
        let first = config.levels[0].channels;
        // Reading files and packing weights keep a core each half busy: two halves together.
        let ((down, middle), up) = rayon::join(
            || (down_stages(w, &config), middle_stage(w, &config)),
            || up_stages(w, &config),
        );
        let (down, middle, up) = (down?, middle?, up?);
        Ok(Self {
            embedding: Embedding::new(w, first, config.pooled)?,
            enter: w
                .at("conv_in")
                .conv(config.latent_channels, first, 3, Stride::One)?,
            down,
            middle,
            up,
            norm: w
                .at("conv_norm_out")
                .group_norm(first, config.groups, config.eps)?,
            leave: w
                .at("conv_out")
                .conv(first, config.latent_channels, 3, Stride::One)?,
            compute: w.storage().compute(),
            config,
        })
    }

    /// The network for learning in a smaller memory: what its blocks compute is
    /// forgotten and computed again on the way back, which leaves the gradients
    /// of the blocks' weights in `aside`. It takes no attention control.
    pub fn recomputing(self, aside: &Aside) -> Self {
        let all = |stages: Vec<Stage>| -> Vec<Stage> {
            let stages = stages.into_iter();
            stages.map(|stage| stage.recomputing(aside)).collect()
        };
        Self {
            down: all(self.down),
            middle: self.middle.recomputing(aside),
            up: all(self.up),
            ..self
        }
    }

    /// Its measures.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Whether it was distilled on guidance.
    pub fn takes_guidance(&self) -> bool {
        self.embedding.takes_guidance()
    }

    /// Reads the text of some rows, once for as many evaluations as use it.
    pub fn read(&self, text: &Conditioning) -> Result<ReadText> {
        let tokens = text.tokens.to_dtype(self.compute)?;
        let stages = self.down.iter().chain([&self.middle]).chain(&self.up);
        Ok(ReadText {
            stages: stages
                .map(|stage| stage.read(&tokens))
                .collect::<Result<_>>()?,
            pooled: text.pooled.clone(),
        })
    }

    /// The predicted noise (rows, 4, h, w), in f32.
    pub fn forward(&self, input: Input, control: &mut dyn AttentionControl) -> Result<Tensor> {
        let Input {
            latent,
            times,
            guidance,
            text,
        } = input;
        let time = self
            .embedding
            .forward(times, guidance, text.pooled.as_ref())?;
        let mut texts = text.stages.iter();
        let mut seen = || Conditions {
            time: &time,
            text: texts.next().map_or(&[], Vec::as_slice),
        };

        let latent = channels_last(&latent.to_dtype(self.compute)?)?;
        let mut x = self.enter.forward(&latent)?;
        let mut skips = vec![x.clone()];
        for stage in &self.down {
            x = stage.down(x, seen(), &mut skips, control)?;
        }
        x = self.middle.middle(x, seen(), control)?;
        for stage in &self.up {
            x = stage.up(x, seen(), &mut skips, control)?;
        }
        let eps = self.leave.forward(&self.norm.forward_silu(&x)?)?;
        Ok(channels_first(&eps)?.to_dtype(DType::F32)?)
    }
}

fn down_stages(w: &Weights, config: &UnetConfig) -> Result<Vec<Stage>> {
    let mut channels = config.levels[0].channels;
    let stage = |(i, &level): (usize, &Level)| {
        let w = w.at("down_blocks").at(i);
        let inputs = |block| if block == 0 { channels } else { level.channels };
        let resnets = (0..level.blocks).map(|block| {
            let w = w.at("resnets").at(block);
            Resnet::new(
                &w,
                inputs(block),
                level.channels,
                config.norm(),
                Some(config.time_width()),
            )
        });
        let resnets = resnets.collect::<Result<_>>()?;
        channels = level.channels;
        let halves = i + 1 < config.levels.len();
        let halve = w.at("downsamplers.0.conv");
        let halve = halves
            .then(|| halve.conv(channels, channels, 3, Stride::Two))
            .transpose()?;
        let transformers = transformers(&w, config.transformer(level, level.depth), level.blocks)?;
        Ok(Stage::new((Place::Down, i), resnets, transformers, halve))
    };
    config.levels.iter().enumerate().map(stage).collect()
}

fn middle_stage(w: &Weights, config: &UnetConfig) -> Result<Stage> {
    let w = w.at("mid_block");
    let level = *config
        .levels
        .last()
        .ok_or_else(|| Error::setting("a UNet needs at least one level"))?;
    let c = level.channels;
    let resnets = (0..2).map(|i| {
        Resnet::new(
            &w.at("resnets").at(i),
            c,
            c,
            config.norm(),
            Some(config.time_width()),
        )
    });
    let transformers = transformers(&w, config.transformer(level, config.middle_depth), 1)?;
    let site = (Place::Middle, config.levels.len() - 1);
    Ok(Stage::new(
        site,
        resnets.collect::<Result<_>>()?,
        transformers,
        None,
    ))
}

fn up_stages(w: &Weights, config: &UnetConfig) -> Result<Vec<Stage>> {
    let mut channels = config.levels.last().map_or(0, |level| level.channels);
    let mut skips = config.skips();
    let stage = |(i, (depth, &level)): (usize, (usize, &Level))| {
        let w = w.at("up_blocks").at(i);
        let blocks = level.blocks + 1;
        let resnets = (0..blocks).map(|block| {
            let inputs = channels + skips.pop().expect("the way up mirrors the way down");
            channels = level.channels;
            let w = w.at("resnets").at(block);
            Resnet::new(
                &w,
                inputs,
                channels,
                config.norm(),
                Some(config.time_width()),
            )
        });
        let resnets = resnets.collect::<Result<_>>()?;
        let conv = w.at("upsamplers.0.conv");
        let conv = (depth > 0)
            .then(|| conv.conv(channels, channels, 3, Stride::One))
            .transpose()?;
        let transformers = transformers(&w, config.transformer(level, level.depth_up), blocks)?;
        Ok(Stage::new((Place::Up, depth), resnets, transformers, conv))
    };
    config
        .levels
        .iter()
        .enumerate()
        .rev()
        .enumerate()
        .map(stage)
        .collect()
}

/// `count` transformers, or none where they would have no blocks.
fn transformers(w: &Weights, shape: TransformerShape, count: usize) -> Result<Vec<Transformer>> {
    let count = if shape.depth == 0 { 0 } else { count };
    (0..count)
        .map(|i| Transformer::new(&w.at("attentions").at(i), shape))
        .collect()
}

#[cfg(test)]
mod tests;
