//! Attention inside the UNet, and the port through which an edit controls it.

use candle_core::Tensor;

use crate::{
    error::Result,
    nn::{
        GroupNorm, LayerNorm, Linear, Weights,
        ops::{AttentionMode, Ops},
    },
};

/// The part of the UNet that a site lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPlace {
    /// From the latent towards the middle.
    Down,
    /// The coarsest part.
    Mid,
    /// From the middle back to the latent.
    Up,
}

/// What the queries of a site attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// The picture itself.
    SelfAttention,
    /// The text.
    CrossAttention,
}

/// Where in the UNet an attention map arises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The transformer block, counted in the order of the evaluation from 0.
    pub index: usize,
    /// The part of the network.
    pub place: BlockPlace,
    /// What is attended to.
    pub kind: AttentionKind,
    /// How often the latent was halved to get here.
    pub level: usize,
    /// Rows of the grid that the queries form.
    pub height: usize,
    /// Columns of that grid.
    pub width: usize,
}

impl Site {
    /// The self-attention of a block whose latent was halved `level` times; the grid
    /// and the index are filled in on the way there.
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

/// What a control wants of the attention at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intervention {
    /// Nothing: the maps are never materialised.
    None,
    /// Every row reads its own values through the first row's maps, which
    /// takes the first row's queries and keys and no materialised map.
    FirstRowsMaps,
    /// The maps are computed and passed to `rewrite`.
    Maps,
}

/// Sees and may rewrite attention maps while the UNet runs.
pub trait AttentionControl {
    /// What is wanted at `site`.
    fn intervention(&self, site: &Site) -> Intervention;

    /// Rewrites maps (rows, heads, queries, keys) that were wished for; each
    /// row of keys sums to one on the way in.
    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor>;
}

/// The control that leaves every map alone.
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

/// What one site attends to: computed once for a text that stays the same.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// (b, m, c)
    keys: Tensor,
    /// (b, m, c)
    values: Tensor,
}

impl KeyValues {
    /// The tensors of contexts in a row.
    pub(super) fn to_tensors(contexts: &[Self]) -> impl Iterator<Item = &Tensor> {
        contexts
            .iter()
            .flat_map(|context| [&context.keys, &context.values])
    }

    /// Contexts of tensors in a row, as [`to_tensors`](Self::to_tensors) lists them.
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
    /// Attention of (.., channels) to (.., context).
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

    /// What `context` (b, m, d) offers to queries.
    pub fn keys_values(&self, context: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues {
            keys: self.key.forward(context)?,
            values: self.value.forward(context)?,
        })
    }

    /// `residual` plus what x (b, n, c) reads out of a context: (b, n, c).
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

/// Self-attention, attention to the text, and a gated feed-forward network.
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

/// Transformer blocks over the pixels of a picture.
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
    /// Channels of the picture.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Number of blocks.
    pub transformer_layers: usize,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    /// Groups of the norm.
    pub groups: usize,
}

impl Transformer {
    /// Reads a transformer; whether its projections are linear layers or 1x1
    /// convolutions in the file makes no difference.
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

    /// What text states (b, m, text width) offer to each block.
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

    /// Transforms x (b, h, w, c) under a text that each block has prepared; `site` is
    /// that of the first block.
    pub fn forward(
        &self,
        x: &Tensor,
        text: &[KeyValues],
        site: Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
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
