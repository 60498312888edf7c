//! CLIP's text encoder (arXiv 2103.00020).

use candle_core::{DType, Tensor};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    error::{Error, Result},
    nn::{
        Activation, LayerNorm, Linear, Weights,
        ops::{AttentionMode, Ops},
    },
};

/// The configuration of a text encoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClipConfig {
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Maximum number of tokens per prompt.
    pub max_position_embeddings: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// The activation function.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    #[serde(default = "vit_l_eps")]
    pub layer_norm_eps: f64,
    /// Width of the pooled projection, if the encoder has one.
    #[serde(default = "vit_l_projection")]
    pub projection_dim: Option<usize>,
}

fn activation<'de, D: Deserializer<'de>>(name: D) -> Result<Activation, D::Error> {
    match &String::deserialize(name)?[..] {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        other => Err(D::Error::custom(format!(
            "hidden_act {other:?}: only quick_gelu and gelu"
        ))),
    }
}

fn vit_l_eps() -> f64 {
    ClipConfig::vit_l().layer_norm_eps
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field")]
fn vit_l_projection() -> Option<usize> {
    Some(512)
}

impl ClipConfig {
    /// The text encoder of SD1.5 (CLIP ViT-L/14), also SDXL's first.
    pub fn vit_l() -> Self {
        Self {
            vocab_size: 49408,
            max_position_embeddings: 77,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: None,
        }
    }

    /// SDXL's second text encoder (OpenCLIP ViT-bigG/14).
    pub fn vit_big_g() -> Self {
        Self {
            hidden_size: 1280,
            intermediate_size: 5120,
            num_hidden_layers: 32,
            num_attention_heads: 20,
            hidden_act: Activation::Gelu,
            projection_dim: Some(1280),
            ..Self::vit_l()
        }
    }
}

/// A text encoder's output for a batch of prompts.
#[derive(Clone, Debug)]
pub struct States {
    /// The hidden states after the final norm (b, context, width).
    pub last: Tensor,
    /// The hidden states before the last layer (b, context, width).
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
    /// Loads a text encoder with this configuration.
    pub fn new(w: &Weights, config: ClipConfig) -> Result<Self> {
        // Files of a bare text model omit the outer prefix.
        let text = if w.at("text_model").exists() {
            w.at("text_model")
        } else {
            w.clone()
        };
        let tables = text.at("embeddings");
        let layers = text.at("encoder.layers");
        let project = |width| w.at("text_projection").linear(config.hidden_size, width);
        Ok(Self {
            tokens: tables.tensor(
                "token_embedding.weight",
                (config.vocab_size, config.hidden_size),
            )?,
            positions: tables.tensor(
                "position_embedding.weight",
                (config.max_position_embeddings, config.hidden_size),
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::new(&layers.at(i), &config))
                .collect::<Result<_>>()?,
            norm: text
                .at("final_layer_norm")
                .layer_norm(config.hidden_size, config.layer_norm_eps)?,
            projection: config.projection_dim.map(project).transpose()?,
            compute: w.placement().compute_dtype(),
            config,
        })
    }

    /// Encodes prompts of `context` ids each; `ends` are the positions of
    /// their end-of-text tokens.
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
            vocab_size: vocabulary,
            max_position_embeddings: context,
            hidden_size: width,
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

/// The hidden states (b, width) at the end-of-text tokens of (b, context, width).
fn at_ends(states: &Tensor, ends: &[u32]) -> candle_core::Result<Tensor> {
    let rows = ends
        .iter()
        .enumerate()
        .map(|(row, &end)| states.get(row)?.get(end as usize));
    Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

#[derive(Debug)]
struct Layer {
    ops: &'static dyn Ops,
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn new(w: &Weights, config: &ClipConfig) -> Result<Self> {
        let c = config.hidden_size;
        let attention = w.at("self_attn");
        Ok(Self {
            ops: w.ops(),
            norm1: w.at("layer_norm1").layer_norm(c, config.layer_norm_eps)?,
            query: attention.at("q_proj").linear(c, c)?,
            key: attention.at("k_proj").linear(c, c)?,
            value: attention.at("v_proj").linear(c, c)?,
            out: attention.at("out_proj").linear(c, c)?,
            norm2: w.at("layer_norm2").layer_norm(c, config.layer_norm_eps)?,
            fc1: w.at("mlp.fc1").linear(c, config.intermediate_size)?,
            fc2: w.at("mlp.fc2").linear(config.intermediate_size, c)?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let q = self.query.forward(&normed)?; // (b, n, c)
        let k = self.key.forward(&normed)?;
        let v = self.value.forward(&normed)?;
        let read = self
            .ops
            .attention([&q, &k, &v], self.heads, AttentionMode::Causal)?;
        let x = self.out.forward_onto(&read, Some(x))?;
        let y = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let y = self.ops.activate(&y, self.activation)?;
        self.fc2.forward_onto(&y, Some(&x))
    }
}
