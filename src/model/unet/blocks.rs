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
    fn forward_checkpointed(
        self: &Arc<Self>,
        x: &Tensor,
        time: &Tensor,
        text: &[KeyValues],
        sink: &GradientSink,
    ) -> Result<Tensor> {
        let layer = Arc::clone(self);
        let again = move |inputs: &[Tensor]| {
            let [x, time, text @ ..] = inputs else {
                candle_core::bail!("a layer has a picture and a time")
            };
            let text = KeyValues::from_tensors(text);
            let y = layer.forward(x, time, &text, &mut NoControl);
            y.map_err(Error::wrap)
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
    layers: Vec<Arc<Layer>>,
    resample: Option<Conv2d>,
    checkpointing: Option<GradientSink>,
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
            layers: resnets.into_iter().map(layer).collect(),
            resample,
            checkpointing: None,
        }
    }

    /// Enables gradient checkpointing: activations are recomputed in the backward pass, and
    /// the gradients of the weights go to `sink`.
    pub fn with_gradient_checkpointing(self, sink: &GradientSink) -> Self {
        Self {
            checkpointing: Some(sink.clone()),
            ..self
        }
    }

    /// The keys and values of text hidden states (b, tokens, text width) per transformer.
    pub fn keys_values(&self, text: &Tensor) -> Result<Vec<Vec<KeyValues>>> {
        let layers = self.layers.iter();
        let transformers = layers.filter_map(|layer| layer.transformer.as_ref());
        transformers
            .map(|transformer| transformer.keys_values(text))
            .collect()
    }

    /// Runs a down block: every intermediate output is pushed to `skips`.
    pub fn down(
        &self,
        mut x: Tensor,
        inputs: BlockInputs,
        skips: &mut Vec<Tensor>,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        for layer in 0..self.layers.len() {
            x = self.layer(layer, &x, inputs, control)?;
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
        inputs: BlockInputs,
        skips: &mut Vec<Tensor>,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        for layer in 0..self.layers.len() {
            let skip = skips
                .pop()
                .expect("a skip connection for each layer of the up blocks");
            x = self.layer(layer, &self.ops.concat(&x, &skip)?, inputs, control)?;
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

    fn layer(
        &self,
        i: usize,
        x: &Tensor,
        inputs: BlockInputs,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let text = inputs.text.get(i).map_or(&[][..], Vec::as_slice);
        match &self.checkpointing {
            Some(sink) => self.layers[i].forward_checkpointed(x, inputs.time, text, sink),
            None => self.layers[i].forward(x, inputs.time, text, control),
        }
    }
}
