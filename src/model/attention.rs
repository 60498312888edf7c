//! Attention layers of the UNet, and the hook through which an edit controls them.

use candle_core::Tensor;

use crate::{
    error::{Error, Result},
    nn::{
        GroupNorm, LayerNorm, Linear, Weights,
        ops::{AttentionMode, Ops},
    },
};

/// The part of the UNet that a site belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPlace {
    /// The down blocks.
    Down,
    /// The middle block.
    Mid,
    /// The up blocks.
    Up,
}

/// What the queries of a site attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// The picture's own features.
    SelfAttention,
    /// The text.
    CrossAttention,
}

/// An attention layer of the UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Index of the transformer block in evaluation order, from 0.
    pub index: usize,
    /// The part of the network.
    pub place: BlockPlace,
    /// Self- or cross-attention.
    pub kind: AttentionKind,
    /// Number of times the latent has been downsampled here.
    pub level: usize,
    /// Height of the query grid.
    pub height: usize,
    /// Width of the query grid.
    pub width: usize,
}

impl Site {
    /// The self-attention of a block whose latent was downsampled `level` times; the
    /// grid and the index are set later.
    pub(super) fn at(place: BlockPlace, level: usize) -> Self {
        Self {
            index: 0,
            place,
            kind: AttentionKind::SelfAttention,
            level,
            height: 0,
            width: 0,
        }
    }
}

/// What a control requests of the attention at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intervention {
    /// Nothing: the maps are not materialised.
    None,
    /// Every row applies the first row's maps to its own values: computed from the
    /// first row's queries and keys without materialised maps.
    FirstRowsMaps,
    /// The maps are computed and passed to `rewrite`.
    Maps,
}

/// Reads and optionally rewrites attention maps during a UNet evaluation.
pub trait AttentionControl {
    /// The intervention requested at `site`.
    fn intervention(&self, site: &Site) -> Intervention;

    /// Rewrites the requested maps (rows, heads, queries, keys); on input they sum
    /// to one over the keys.
    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor>;
}

/// The control that does not intervene.
#[derive(Clone, Copy, Debug)]
pub struct NoControl;

impl AttentionControl for NoControl {
    fn intervention(&self, _: &Site) -> Intervention {
        Intervention::None
    }

    fn rewrite(&mut self, _: &Site, maps: Tensor) -> Result<Tensor> {
        Ok(maps)
    }
}

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

/// Multi-head attention.
#[derive(Debug)]
pub struct Attention {
    ops: &'static dyn Ops,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    /// Attention with queries of width `channels` and a context of width `context`.
    pub fn new(w: &Weights, channels: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            ops: w.ops(),
            query: w.at_any(&["to_q", "query"]).linear(channels, channels)?,
            key: w.at_any(&["to_k", "key"]).linear(context, channels)?,
            value: w.at_any(&["to_v", "value"]).linear(context, channels)?,
            out: w
                .at_any(&["to_out.0", "proj_attn"])
                .linear(channels, channels)?,
            heads,
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
        let KeyValues { keys: k, values: v } = context;
        let y = match control.intervention(site) {
            Intervention::None => {
                self.ops
                    .attention([&q, k, v], self.heads, AttentionMode::Full)?
            }
            Intervention::FirstRowsMaps => {
                self.ops
                    .attention([&q, k, v], self.heads, AttentionMode::FirstRowsMaps)?
            }
            Intervention::Maps => {
                let maps = self.ops.attention_maps(&q, k, self.heads)?; // (b, heads, n, m)
                self.ops.read_maps(&control.rewrite(site, maps)?, v)?
            }
        };
        Ok(self.out.forward_onto(&y, Some(residual))?)
    }
}

/// Self-attention, cross-attention to the text, and a GEGLU feed-forward network.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
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
            attn1: Attention::new(&w.at("attn1"), c, c, heads)?,
            norm2: w.at("norm2").layer_norm(c, EPS)?,
            attn2: Attention::new(&w.at("attn2"), c, cross_attention_dim, heads)?,
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
        let seen = self.attn1.keys_values(&normed)?;
        let x = &self.attn1.forward_onto(x, &normed, &seen, &here, control)?;
        let normed = self.norm2.forward(x)?;
        let here = Site {
            kind: AttentionKind::CrossAttention,
            ..site
        };
        let x = &self.attn2.forward_onto(x, &normed, text, &here, control)?;
        let gated = self.ff_in.forward_geglu(&self.norm3.forward(x)?)?; // (b, n, inner)
        Ok(self.ff_out.forward_onto(&gated, Some(x))?)
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
