//! One stage of a UNet or an autoencoder: residual blocks, optional
//! transformers, optional resampling. Down, middle and up are alike.

use std::sync::Arc;

use candle_core::{Error, Result as TensorResult, Tensor};

use super::attention::{AttentionControl, Context, Place, Transformer, Untouched};
use crate::{
    error::Result,
    nn::{Aside, Conv2d, Extras, GroupNorm, Linear, Stride, Weights, concat, recomputed},
};

/// Two convolutions beside a shortcut (arXiv 1512.03385), with the time
/// embedding added between them where there is one.
#[derive(Debug)]
pub struct Resnet {
    pub(super) norm1: GroupNorm,
    pub(super) conv1: Conv2d,
    time: Option<Linear>,
    pub(super) norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// The norms of a network's residual blocks.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl Resnet {
    /// A block from `inputs` to `outputs` channels; `time` is the width of the
    /// time embedding of the networks that have one.
    pub fn new(
        w: &Weights,
        inputs: usize,
        outputs: usize,
        norm: Norm,
        time: Option<usize>,
    ) -> Result<Self> {
        let shortcut = w.at_any(&["conv_shortcut", "nin_shortcut"]);
        Ok(Self {
            norm1: w.at("norm1").group_norm(inputs, norm.groups, norm.eps)?,
            conv1: w.at("conv1").conv(inputs, outputs, 3, Stride::One)?,
            time: time
                .map(|width| w.at("time_emb_proj").linear(width, outputs))
                .transpose()?,
            norm2: w.at("norm2").group_norm(outputs, norm.groups, norm.eps)?,
            conv2: w.at("conv2").conv(outputs, outputs, 3, Stride::One)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(shortcut.conv(inputs, outputs, 1, Stride::One)?),
            },
        })
    }

    /// Maps x (b, h, w, inputs) under a time embedding (b, width), already
    /// through its activation.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> TensorResult<Tensor> {
        let y = self.norm2.forward_silu(&self.enter(x, time)?)?;
        self.leave(&y, x)
    }

    /// The first convolution.
    fn enter(&self, x: &Tensor, time: Option<&Tensor>) -> TensorResult<Tensor> {
        let shift = match (&self.time, time) {
            (Some(layer), Some(time)) => Some(layer.forward(time)?), // (b, outputs)
            _ => None,
        };
        let shifted = Extras {
            shift: shift.as_ref(),
            ..Extras::default()
        };
        self.conv1
            .forward_with(&self.norm1.forward_silu(x)?, shifted)
    }

    /// The second convolution, of y (b, h, w, outputs), beside the shortcut of x.
    pub(super) fn leave(&self, y: &Tensor, x: &Tensor) -> TensorResult<Tensor> {
        let shortcut = self.shortcut.as_ref().map(|layer| layer.forward(x));
        let onto = Extras {
            residual: Some(&shortcut.transpose()?.unwrap_or_else(|| x.clone())),
            ..Extras::default()
        };
        self.conv2.forward_with(y, onto)
    }

    /// Channels of what it makes.
    pub(super) fn outputs(&self) -> usize {
        self.conv2.outputs()
    }
}

/// What every block of one evaluation sees.
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// The activated time embedding (b, width).
    pub time: &'a Tensor,
    /// The text, as each block of each of the stage's transformers reads it.
    pub text: &'a [Vec<Context>],
}

/// A residual block and the transformer that follows it, where one does.
#[derive(Debug)]
struct Block {
    resnet: Resnet,
    transformer: Option<Transformer>,
    /// Where it is: the place, and how often the latent was halved.
    site: (Place, usize),
}

impl Block {
    fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        text: &[Context],
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.transformer {
            Some(transformer) => transformer.forward(&x, text, self.site, control),
            None => Ok(x),
        }
    }

    /// The same for learning, without keeping what it computes on the way.
    fn forward_forgetting(
        self: &Arc<Self>,
        x: &Tensor,
        time: &Tensor,
        text: &[Context],
        aside: &Aside,
    ) -> Result<Tensor> {
        let block = Arc::clone(self);
        let again = move |inputs: &[Tensor]| {
            let [x, time, text @ ..] = inputs else {
                candle_core::bail!("a block has a picture and a time")
            };
            let text = Context::unlisted(text);
            let made = block.forward(x, time, &text, &mut Untouched);
            made.map_err(Error::wrap)
        };
        let inputs: Vec<_> = [x, time].into_iter().chain(Context::listed(text)).collect();
        Ok(recomputed(&inputs, aside, again)?)
    }
}

/// Residual blocks, each followed by its transformer where the stage has one.
#[derive(Debug)]
pub struct Stage {
    blocks: Vec<Arc<Block>>,
    resample: Option<Conv2d>,
    recompute: Option<Aside>,
}

impl Stage {
    /// A stage at `place`, where the latent was halved `level` times. There are
    /// as many transformers as blocks or fewer; they follow the first ones.
    pub fn new(
        (place, level): (Place, usize),
        resnets: Vec<Resnet>,
        transformers: Vec<Transformer>,
        resample: Option<Conv2d>,
    ) -> Self {
        let mut transformers = transformers.into_iter();
        let block = |resnet| {
            Arc::new(Block {
                resnet,
                transformer: transformers.next(),
                site: (place, level),
            })
        };
        Self {
            blocks: resnets.into_iter().map(block).collect(),
            resample,
            recompute: None,
        }
    }

    /// Forgets what blocks compute, for their gradients to be computed anew.
    pub fn recomputing(self, aside: &Aside) -> Self {
        Self {
            recompute: Some(aside.clone()),
            ..self
        }
    }

    /// What text states (b, tokens, text width) offer to its transformers.
    pub fn read(&self, text: &Tensor) -> Result<Vec<Vec<Context>>> {
        let transformers = self
            .blocks
            .iter()
            .filter_map(|block| block.transformer.as_ref());
        transformers
            .map(|transformer| transformer.read(text))
            .collect()
    }

    /// Goes down: every intermediate result is kept for the way up.
    pub fn down(
        &self,
        mut x: Tensor,
        seen: Conditions,
        skips: &mut Vec<Tensor>,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        for block in 0..self.blocks.len() {
            x = self.block(block, &x, seen, control)?;
            skips.push(x.clone());
        }
        if let Some(halve) = &self.resample {
            x = halve.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    /// Passes the middle, where nothing is kept or taken.
    pub fn middle(
        &self,
        mut x: Tensor,
        seen: Conditions,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        for block in 0..self.blocks.len() {
            x = self.block(block, &x, seen, control)?;
        }
        Ok(x)
    }

    /// Goes up: each block takes the latest result kept on the way down, and
    /// the enlarged picture takes the size of the next one.
    pub fn up(
        &self,
        mut x: Tensor,
        seen: Conditions,
        skips: &mut Vec<Tensor>,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        for block in 0..self.blocks.len() {
            let skip = skips
                .pop()
                .expect("the way up has as many blocks as the way down kept results");
            x = self.block(block, &concat(&x, &skip)?, seen, control)?;
        }
        if let (Some(conv), Some(next)) = (&self.resample, skips.last()) {
            let (_, height, width, _) = next.dims4()?;
            let enlarging = Extras {
                enlarged: Some((height, width)),
                ..Extras::default()
            };
            x = conv.forward_with(&x, enlarging)?;
        }
        Ok(x)
    }

    fn block(
        &self,
        i: usize,
        x: &Tensor,
        seen: Conditions,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let text = seen.text.get(i).map_or(&[][..], Vec::as_slice);
        match &self.recompute {
            Some(aside) => self.blocks[i].forward_forgetting(x, seen.time, text, aside),
            None => self.blocks[i].forward(x, seen.time, text, control),
        }
    }
}
