//! Attention layers of the UNet, and the hook through which an edit controls them.

mod control;

use candle_core::Tensor;

pub use control::{
    Attend, AttentionControl, AttentionKind, BlockPlace, Intervention, NoControl, Site,
};

use crate::{
    error::{Error, Result},
    nn::{
        GroupNorm, LayerNorm, Linear, Weights,
        ops::{AttentionMode, Ops},
    },
};

/// Keys and values of one attention layer; computed once per text and reused.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// (b, m, c)
    keys: Tensor,
    /// (b, m, c)
    values: Tensor,
}

impl KeyValues {
    /// The keys and values of `contexts`, flattened to a sequence of tensors.
    pub(super) fn to_tensors(contexts: &[Self]) -> impl Iterator<Item = &Tensor> {
        contexts
            .iter()
            .flat_map(|context| [&context.keys, &context.values])
    }

    /// The inverse of [`to_tensors`](Self::to_tensors).
    pub(super) fn from_tensors(tensors: &[Tensor]) -> Vec<Self> {
        let pairs = tensors.chunks_exact(2);
        let context = |pair: &[Tensor]| Self {
            keys: pair[0].clone(),
            values: pair[1].clone(),
        };
        pairs.map(context).collect()
    }
}

/// The end of an attention layer: the maps, what they read, and the output projection.
#[derive(Debug)]
struct Reading {
    ops: &'static dyn Ops,
    out: Linear,
    heads: usize,
}

impl Reading {
    fn new(w: &Weights, channels: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            ops: w.ops(),
            out: w
                .at_any(&["to_out.0", "proj_attn"])
                .linear(channels, channels)?,
            heads,
        })
    }

    /// `residual` plus what queries q (b, n, c) read: (b, n, c).
    fn onto(
        &self,
        residual: &Tensor,
        q: &Tensor,
        context: &KeyValues,
        site: &Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let KeyValues { keys: k, values: v } = context;
        let y = match control.intervention(site) {
            Intervention::None => self
                .ops
                .attention([q, k, v], self.heads, AttentionMode::Full)?,
            Intervention::FirstRowsMaps => {
                self.ops
                    .attention([q, k, v], self.heads, AttentionMode::FirstRowsMaps)?
            }
            Intervention::FirstRowsKeysValues => {
                let (k, v) = (first_rows(k)?, first_rows(v)?);
                self.ops
                    .attention([q, &k, &v], self.heads, AttentionMode::Full)?
            }
            Intervention::Maps => {
                let maps = self.ops.attention_maps(q, k, self.heads)?; // (b, heads, n, m)
                self.ops.read_maps(&control.rewrite(site, maps)?, v)?
            }
            Intervention::Attention => {
                let full = |[q, k, v]: [&Tensor; 3]| {
                    let mode = AttentionMode::Full;
                    Ok(self.ops.attention([q, k, v], self.heads, mode)?)
                };
                control.attend(site, [q, k, v], &full)?
            }
        };
        Ok(self.out.forward_onto(&y, Some(residual))?)
    }
}

/// The first row in place of each row of x (b, n, c).
fn first_rows(x: &Tensor) -> Result<Tensor> {
    let first = x.narrow(0, 0, 1)?;
    Ok(first.broadcast_as(x.shape())?.contiguous()?)
}

/// The projections to queries, keys and values of width `channels`, of a context of width
/// `context`.
fn projections(w: &Weights, channels: usize, context: usize) -> Result<[Linear; 3]> {
    Ok([
        w.at_any(&["to_q", "query"]).linear(channels, channels)?,
        w.at_any(&["to_k", "key"]).linear(context, channels)?,
        w.at_any(&["to_v", "value"]).linear(context, channels)?,
    ])
}

/// Multi-head attention of a sequence over itself.
#[derive(Debug)]
pub struct SelfAttention {
    projections: Projections,
    reading: Reading,
}

/// The projections to queries, keys and values.
#[derive(Debug)]
enum Projections {
    Separate([Linear; 3]),
    /// One layer with the outputs of all three.
    Joined(Linear),
}

impl SelfAttention {
    /// Attention of width `channels`.
    pub fn new(w: &Weights, channels: usize, heads: usize) -> Result<Self> {
        let separate = projections(w, channels, channels)?;
        Ok(Self {
            projections: match Linear::joined(&separate)? {
                Some(joined) => Projections::Joined(joined),
                None => Projections::Separate(separate),
            },
            reading: Reading::new(w, channels, heads)?,
        })
    }

    /// `residual` plus the attention of x (b, n, c) over itself: (b, n, c).
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        x: &Tensor,
        site: &Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let [q, keys, values] = match &self.projections {
            Projections::Separate([query, key, value]) => {
                [query.forward(x)?, key.forward(x)?, value.forward(x)?]
            }
            Projections::Joined(layer) => {
                let all = layer.forward(x)?; // (b, n, 3 c)
                let c = all.dim(2)? / 3;
                let part = |i| all.narrow(2, i * c, c);
                [part(0)?, part(1)?, part(2)?]
            }
        };
        let context = KeyValues { keys, values };
        self.reading.onto(residual, &q, &context, site, control)
    }
}

/// Multi-head attention over the text.
#[derive(Debug)]
pub struct CrossAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    reading: Reading,
}

impl CrossAttention {
    /// Attention with queries of width `channels` and a context of width `context`.
    pub fn new(w: &Weights, channels: usize, context: usize, heads: usize) -> Result<Self> {
        let [query, key, value] = projections(w, channels, context)?;
        Ok(Self {
            query,
            key,
            value,
            reading: Reading::new(w, channels, heads)?,
        })
    }

    /// The keys and values of `context` (b, m, d).
    pub fn keys_values(&self, context: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues {
            keys: self.key.forward(context)?,
            values: self.value.forward(context)?,
        })
    }

    /// `residual` plus the attention of x (b, n, c) over `context`: (b, n, c).
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        x: &Tensor,
        context: &KeyValues,
        site: &Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let q = self.query.forward(x)?; // (b, n, c)
        self.reading.onto(residual, &q, context, site, control)
    }
}

/// Self-attention, cross-attention to the text, and a GEGLU feed-forward network.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn new(w: &Weights, c: usize, cross_attention_dim: usize, heads: usize) -> Result<Self> {
        const EPS: f64 = 1e-5;
        let inner = 4 * c;
        Ok(Self {
            norm1: w.at("norm1").layer_norm(c, EPS)?,
            attn1: SelfAttention::new(&w.at("attn1"), c, heads)?,
            norm2: w.at("norm2").layer_norm(c, EPS)?,
            attn2: CrossAttention::new(&w.at("attn2"), c, cross_attention_dim, heads)?,
            norm3: w.at("norm3").layer_norm(c, EPS)?,
            ff_in: w.at("ff.net.0.proj").linear(c, 2 * inner)?,
            ff_out: w.at("ff.net.2").linear(inner, c)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        text: &KeyValues,
        site: Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let here = Site {
            kind: AttentionKind::SelfAttention,
            ..site
        };
        let x = &self.attn1.forward_onto(x, &normed, &here, control)?;
        let normed = self.norm2.forward(x)?;
        let here = Site {
            kind: AttentionKind::CrossAttention,
            ..site
        };
        let x = &self.attn2.forward_onto(x, &normed, text, &here, control)?;
        let normed = self.norm3.forward(x)?;
        Ok(self.ff_in.feed_forward(&self.ff_out, &normed, Some(x))?)
    }
}

/// Transformer blocks over the pixels of a feature map (`Transformer2DModel`).
#[derive(Debug)]
pub struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

/// The configuration of a [`Transformer`].
#[derive(Clone, Copy, Debug)]
pub struct TransformerShape {
    /// Channels of the feature map.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Number of blocks.
    pub transformer_layers: usize,
    /// Width of the text encoder hidden states.
    pub cross_attention_dim: usize,
    /// Groups of the group norm.
    pub groups: usize,
}

impl Transformer {
    /// Loads a transformer; its projections may be linear layers or 1x1 convolutions
    /// in the file.
    pub fn new(w: &Weights, shape: TransformerShape) -> Result<Self> {
        let TransformerShape {
            channels: c,
            heads,
            transformer_layers,
            cross_attention_dim,
            groups,
        } = shape;
        let blocks = w.at("transformer_blocks");
        Ok(Self {
            norm: w.at("norm").group_norm(c, groups, 1e-6)?,
            proj_in: w.at("proj_in").linear(c, c)?,
            blocks: (0..transformer_layers)
                .map(|i| TransformerBlock::new(&blocks.at(i), c, cross_attention_dim, heads))
                .collect::<Result<_>>()?,
            proj_out: w.at("proj_out").linear(c, c)?,
        })
    }

    /// The keys and values of text hidden states (b, m, text width) for each block.
    pub fn keys_values(&self, text: &Tensor) -> Result<Vec<KeyValues>> {
        self.blocks
            .iter()
            .map(|block| block.attn2.keys_values(text))
            .collect()
    }

    /// Number of its blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Transforms x (b, h, w, c) with the text's keys and values for each block; `site`
    /// is that of the first block.
    pub fn forward(
        &self,
        x: &Tensor,
        text: &[KeyValues],
        site: Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        if text.len() != self.blocks.len() {
            return Err(Error::setting(
                "the text was prepared by a UNet with other blocks",
            ));
        }
        let shape = x.dims4()?;
        let (_, height, width, _) = shape;
        let x = x.flatten(1, 2)?; // (b, h * w, c)
        let mut y = self.proj_in.forward(&self.norm.forward(&x)?)?;
        for (i, (block, text)) in self.blocks.iter().zip(text).enumerate() {
            let site = Site {
                index: site.index + i,
                height,
                width,
                ..site
            };
            y = block.forward(&y, text, site, control)?;
        }
        let y = self.proj_out.forward_onto(&y, Some(&x))?;
        Ok(y.reshape(shape)?) // (b, h, w, c)
    }
}
