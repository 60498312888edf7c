//! One stage of a UNet: residual blocks, optional transformers, optional
//! resampling. Down, middle and up are alike.

use std::sync::Arc;

use candle_core::{Error, Tensor};

use crate::{
    error::Result,
    model::{
        attention::{AttentionControl, KeyValues, NoControl, Site, Transformer},
        resnet::Resnet,
    },
    nn::{Conv2d, Epilogue, GradientSink, checkpointed, ops::Ops},
};

/// What every block of one evaluation sees.
#[derive(Clone, Copy)]
pub struct BlockInputs<'a> {
    /// The activated time embedding (b, width).
    pub time: &'a Tensor,
    /// The text, as each block of each of the stage's transformers reads it.
    pub text: &'a [Vec<KeyValues>],
}

/// A residual block and the transformer that follows it, where one does.
#[derive(Debug)]
struct Layer {
    resnet: Resnet,
    transformer: Option<Transformer>,
    /// That of the transformer's first block.
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

    /// The same for learning, without keeping what it computes on the way.
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

/// Residual blocks, each followed by its transformer where the stage has one.
#[derive(Debug)]
pub struct UnetBlock {
    ops: &'static dyn Ops,
    blocks: Vec<Arc<Layer>>,
    resample: Option<Conv2d>,
    recompute: Option<GradientSink>,
}

impl UnetBlock {
    /// A stage whose first transformer block is at `site`. There are as many
    /// transformers as residual blocks or fewer; they follow the first ones.
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

    /// Forgets what blocks compute, for their gradients to be computed anew.
    pub fn with_gradient_checkpointing(self, sink: &GradientSink) -> Self {
        Self {
            recompute: Some(sink.clone()),
            ..self
        }
    }

    /// What text states (b, tokens, text width) offer to its transformers.
    pub fn keys_values(&self, text: &Tensor) -> Result<Vec<Vec<KeyValues>>> {
        let transformers = self
            .blocks
            .iter()
            .filter_map(|block| block.transformer.as_ref());
        transformers
            .map(|transformer| transformer.keys_values(text))
            .collect()
    }

    /// Goes down: every intermediate result is kept for the way up.
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

    /// Goes up: each block takes the latest result kept on the way down, and
    /// the enlarged picture takes the size of the next one.
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
            let enlarging = Epilogue {
                upsample: Some((height, width)),
                ..Epilogue::default()
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
