//! CLIP's text encoder (arXiv 2103.00020).

use candle_core::{DType, Tensor};

use crate::{
    error::{Error, Result},
    nn::{LayerNorm, Linear, Weights, attend_causally, gelu, quick_gelu},
};

/// The non-linearity inside the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(1.702 x).
    QuickGelu,
    /// The exact Gaussian error linear unit.
    Gelu,
}

impl Activation {
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::QuickGelu => quick_gelu(x),
            Self::Gelu => gelu(x),
        }
    }
}

/// The measures of a text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Number of token ids.
    pub vocabulary: usize,
    /// Tokens per prompt.
    pub context: usize,
    /// Width of the states.
    pub width: usize,
    /// Width of the feed-forward network.
    pub inner: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// What the norms add to the variance.
    pub eps: f64,
    /// Width of the pooled projection, where the encoder has one.
    pub projection: Option<usize>,
}

impl ClipConfig {
    /// The encoder of SD1.5 (CLIP ViT-L/14), also SDXL's first.
    pub fn vit_l() -> Self {
        Self {
            vocabulary: 49408,
            context: 77,
            width: 768,
            inner: 3072,
            layers: 12,
            heads: 12,
            activation: Activation::QuickGelu,
            eps: 1e-5,
            projection: None,
        }
    }

    /// SDXL's second encoder (OpenCLIP ViT-bigG/14).
    pub fn vit_big_g() -> Self {
        Self {
            width: 1280,
            inner: 5120,
            layers: 32,
            heads: 20,
            activation: Activation::Gelu,
            projection: Some(1280),
            ..Self::vit_l()
        }
    }
}

/// What a text encoder makes of a batch of prompts.
#[derive(Clone, Debug)]
pub struct States {
    /// The states after the final norm (b, context, width).
    pub last: Tensor,
    /// The states before the last layer (b, context, width).
    pub penultimate: Tensor,
    /// The projected final state at the end token (b, projection).
    pub pooled: Option<Tensor>,
}

/// A text encoder.
#[derive(Debug)]
pub struct Clip {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    projection: Option<Linear>,
    config: ClipConfig,
    compute: DType,
}

impl Clip {
    /// Reads a text encoder of these measures.
    pub fn new(w: &Weights, config: ClipConfig) -> Result<Self> {
        // Files of the bare text model leave the first name out.
        let text = if w.at("text_model").exists() {
            w.at("text_model")
        } else {
            w.clone()
        };
        let tables = text.at("embeddings");
        let layers = text.at("encoder.layers");
        let project = |width| w.at("text_projection").linear(config.width, width);
        Ok(Self {
            tokens: tables.tensor("token_embedding.weight", (config.vocabulary, config.width))?,
            positions: tables
                .tensor("position_embedding.weight", (config.context, config.width))?,
            layers: (0..config.layers)
                .map(|i| Layer::new(&layers.at(i), &config))
                .collect::<Result<_>>()?,
            norm: text
                .at("final_layer_norm")
                .layer_norm(config.width, config.eps)?,
            projection: config.projection.map(project).transpose()?,
            compute: w.storage().compute(),
            config,
        })
    }

    /// Its measures.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Encodes prompts of `context` ids each; `ends` are the positions of
    /// their end tokens.
    pub fn forward(&self, ids: &[&[u32]], ends: &[u32]) -> Result<States> {
        let mut x = self.embed(ids)?;
        let mut penultimate = x.clone();
        for layer in &self.layers {
            penultimate = x;
            x = layer.forward(&penultimate)?;
        }
        let last = self.norm.forward(&x)?;
        let pooled = self
            .projection
            .as_ref()
            .map(|layer| layer.forward(&at_ends(&last, ends)?));
        Ok(States {
            last,
            penultimate,
            pooled: pooled.transpose()?,
        })
    }

    /// Token and position embeddings (b, context, width).
    fn embed(&self, ids: &[&[u32]]) -> Result<Tensor> {
        let ClipConfig {
            vocabulary,
            context,
            width,
            ..
        } = self.config;
        if let Some(id) = ids
            .iter()
            .copied()
            .flatten()
            .find(|&&id| id as usize >= vocabulary)
        {
            return Err(Error::setting(format!(
                "the tokenizer gives id {id}, but the text encoder has {vocabulary} tokens: \
                 they belong to different models"
            )));
        }
        let flat = Tensor::new(ids.concat(), self.tokens.device())?;
        let tokens = self.tokens.index_select(&flat, 0)?.to_dtype(self.compute)?;
        let tokens = tokens.reshape((ids.len(), context, width))?;
        Ok(tokens.broadcast_add(&self.positions.to_dtype(self.compute)?)?)
    }
}

/// The states (b, width) at the end tokens of (b, context, width).
fn at_ends(states: &Tensor, ends: &[u32]) -> candle_core::Result<Tensor> {
    let rows = ends
        .iter()
        .enumerate()
        .map(|(row, &end)| states.get(row)?.get(end as usize));
    Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    grow: Linear,
    shrink: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn new(w: &Weights, config: &ClipConfig) -> Result<Self> {
        let c = config.width;
        let attention = w.at("self_attn");
        Ok(Self {
            norm1: w.at("layer_norm1").layer_norm(c, config.eps)?,
            query: attention.at("q_proj").linear(c, c)?,
            key: attention.at("k_proj").linear(c, c)?,
            value: attention.at("v_proj").linear(c, c)?,
            out: attention.at("out_proj").linear(c, c)?,
            norm2: w.at("layer_norm2").layer_norm(c, config.eps)?,
            grow: w.at("mlp.fc1").linear(c, config.inner)?,
            shrink: w.at("mlp.fc2").linear(config.inner, c)?,
            heads: config.heads,
            activation: config.activation,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let q = self.query.forward(&normed)?; // (b, n, c)
        let k = self.key.forward(&normed)?;
        let v = self.value.forward(&normed)?;
        let read = attend_causally(&q, &k, &v, self.heads)?;
        let x = self.out.forward_onto(&read, Some(x))?;
        let y = self.grow.forward(&self.norm2.forward(&x)?)?;
        let y = self.activation.apply(&y)?;
        self.shrink.forward_onto(&y, Some(&x))
    }
}
