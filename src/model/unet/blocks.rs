//! One block of a UNet: residual blocks, optional transformers, optional
//! resampling. Down, middle and up blocks are alike.

use std::sync::Arc;

use candle_core::{Error, Tensor};

use crate::{
    error::Result,
    model::{
        attention::{AttentionControl, KeyValues, NoControl, Site, Transformer},
        resnet::Resnet,
    },
    nn::{Conv2d, ConvEpilogue, GradientSink, checkpointed, ops::Ops},
};

/// The inputs shared by all blocks of one evaluation.
#[derive(Clone, Copy)]
pub struct BlockInputs<'a> {
    /// The activated time embedding (b, width).
    pub time: &'a Tensor,
    /// The text's keys and values, per transformer and transformer block.
    pub text: &'a [Vec<KeyValues>],
}

/// A residual block and the transformer that follows it, if any.
#[derive(Debug)]
struct Layer {
    resnet: Resnet,
    transformer: Option<Transformer>,
    /// The site of the transformer's first block.
    site: Site,
}

impl Layer {
    fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        text: &[KeyValues],
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.transformer {
            Some(transformer) => transformer.forward(&x, text, self.site, control),
            None => Ok(x),
        }
    }

    /// As `forward`, for training with gradient checkpointing.
    fn forward_forgetting(
        self: &Arc<Self>,
        x: &Tensor,
        time: &Tensor,
        text: &[KeyValues],
        sink: &GradientSink,
    ) -> Result<Tensor> {
        let block = Arc::clone(self);
        let again = move |inputs: &[Tensor]| {
            let [x, time, text @ ..] = inputs else {
                candle_core::bail!("a block has a picture and a time")
            };
            let text = KeyValues::from_tensors(text);
            let made = block.forward(x, time, &text, &mut NoControl);
            made.map_err(Error::wrap)
        };
        let inputs: Vec<_> = [x, time]
            .into_iter()
            .chain(KeyValues::to_tensors(text))
            .collect();
        Ok(checkpointed(&inputs, sink, again)?)
    }
}

/// Residual blocks, each optionally followed by a transformer, and the resampling.
#[derive(Debug)]
pub struct UnetBlock {
    ops: &'static dyn Ops,
    blocks: Vec<Arc<Layer>>,
    resample: Option<Conv2d>,
    recompute: Option<GradientSink>,
}

impl UnetBlock {
    /// A block whose first transformer block is at `site`. `transformers` may be fewer
    /// than `resnets`; they follow the first ones.
    pub fn new(
        ops: &'static dyn Ops,
        mut site: Site,
        resnets: Vec<Resnet>,
        transformers: Vec<Transformer>,
        resample: Option<Conv2d>,
    ) -> Self {
        let mut transformers = transformers.into_iter();
        let layer = |resnet| {
            let layer = Layer {
                resnet,
                transformer: transformers.next(),
                site,
            };
            site.index += layer.transformer.as_ref().map_or(0, Transformer::depth);
            Arc::new(layer)
        };
        Self {
            ops,
            blocks: resnets.into_iter().map(layer).collect(),
            resample,
            recompute: None,
        }
    }

    /// Recomputes activations in the backward pass; weight gradients go to `sink`.
    pub fn with_gradient_checkpointing(self, sink: &GradientSink) -> Self {
        Self {
            recompute: Some(sink.clone()),
            ..self
        }
    }

    /// The keys and values of text hidden states (b, tokens, text width) per transformer.
    pub fn keys_values(&self, text: &Tensor) -> Result<Vec<Vec<KeyValues>>> {
        let transformers = self
            .blocks
            .iter()
            .filter_map(|block| block.transformer.as_ref());
        transformers
            .map(|transformer| transformer.keys_values(text))
            .collect()
    }

    /// Runs a down block: every intermediate output is pushed to `skips`.
    pub fn down(
        &self,
        mut x: Tensor,
        seen: BlockInputs,
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

    /// Runs an up block: each layer pops its skip connection from `skips`, and the output
    /// is upsampled to the size of the next one.
    pub fn up(
        &self,
        mut x: Tensor,
        seen: BlockInputs,
        skips: &mut Vec<Tensor>,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        for block in 0..self.blocks.len() {
            let skip = skips
                .pop()
                .expect("the way up has as many blocks as the way down kept results");
            x = self.block(block, &self.ops.concat(&x, &skip)?, seen, control)?;
        }
        if let (Some(conv), Some(next)) = (&self.resample, skips.last()) {
            let (_, height, width, _) = next.dims4()?;
            let enlarging = ConvEpilogue {
                upsample: Some((height, width)),
                ..ConvEpilogue::default()
            };
            x = conv.forward_with(&x, enlarging)?;
        }
        Ok(x)
    }

    fn block(
        &self,
        i: usize,
        x: &Tensor,
        seen: BlockInputs,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let text = seen.text.get(i).map_or(&[][..], Vec::as_slice);
        match &self.recompute {
            Some(sink) => self.blocks[i].forward_forgetting(x, seen.time, text, sink),
            None => self.blocks[i].forward(x, seen.time, text, control),
        }
    }
}
