//! Attention inside the UNet, and the port through which an edit controls it.

use candle_core::Tensor;

use crate::{
    error::Result,
    nn::{
        GroupNorm, LayerNorm, Linear, Weights, attend, attend_through_first, attention_maps,
        read_maps,
    },
};

/// The part of the UNet that a site lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From the latent towards the middle.
    Down,
    /// The coarsest part.
    Middle,
    /// From the middle back to the latent.
    Up,
}

/// What the queries of a site attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The picture itself.
    Itself,
    /// The text.
    Text,
}

/// Where in the UNet an attention map arises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The part of the network.
    pub place: Place,
    /// What is attended to.
    pub kind: Kind,
    /// How often the latent was halved to get here.
    pub level: usize,
    /// Rows of the grid that the queries form.
    pub height: usize,
    /// Columns of that grid.
    pub width: usize,
}

/// What a control wants of the attention at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: the maps are never materialised.
    Untouched,
    /// Every row reads its own values through the first row's maps, which
    /// takes the first row's queries and keys and no materialised map.
    FirstRowsMaps,
    /// To see and rewrite the maps.
    Maps,
}

/// Sees and may rewrite attention maps while the UNet runs.
pub trait AttentionControl {
    /// What is wanted at `site`.
    fn wish(&self, site: &Site) -> Wish;

    /// Rewrites maps (rows, heads, queries, keys) that were wished for; each
    /// row of keys sums to one on the way in.
    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor>;
}

/// The control that leaves every map alone.
#[derive(Clone, Copy, Debug)]
pub struct Untouched;

impl AttentionControl for Untouched {
    fn wish(&self, _: &Site) -> Wish {
        Wish::Untouched
    }

    fn rewrite(&mut self, _: &Site, maps: Tensor) -> Result<Tensor> {
        Ok(maps)
    }
}

/// What one site attends to: computed once for a text that stays the same.
#[derive(Clone, Debug)]
pub struct Context {
    /// (b, m, c)
    keys: Tensor,
    /// (b, m, c)
    values: Tensor,
}

impl Context {
    /// The tensors of contexts in a row.
    pub(super) fn listed(contexts: &[Self]) -> impl Iterator<Item = &Tensor> {
        contexts
            .iter()
            .flat_map(|context| [&context.keys, &context.values])
    }

    /// Contexts of tensors in a row, as [`listed`](Self::listed) lists them.
    pub(super) fn unlisted(tensors: &[Tensor]) -> Vec<Self> {
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
    pub fn read(&self, context: &Tensor) -> Result<Context> {
        Ok(Context {
            keys: self.key.forward(context)?,
            values: self.value.forward(context)?,
        })
    }

    /// `residual` plus what x (b, n, c) reads out of a context: (b, n, c).
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        x: &Tensor,
        context: &Context,
        site: &Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let q = self.query.forward(x)?; // (b, n, c)
        let Context { keys: k, values: v } = context;
        let y = match control.wish(site) {
            Wish::Untouched => attend(&q, k, v, self.heads)?,
            Wish::FirstRowsMaps => attend_through_first(&q, k, v, self.heads)?,
            Wish::Maps => {
                let maps = attention_maps(&q, k, self.heads)?; // (b, heads, n, m)
                read_maps(&control.rewrite(site, maps)?, v)?
            }
        };
        Ok(self.out.forward_onto(&y, Some(residual))?)
    }
}

/// Self-attention, attention to the text, and a gated feed-forward network.
#[derive(Debug)]
struct Block {
    norm_itself: LayerNorm,
    itself: Attention,
    norm_text: LayerNorm,
    text: Attention,
    norm_gate: LayerNorm,
    gate: Linear,
    shrink: Linear,
}

impl Block {
    fn new(w: &Weights, c: usize, text_width: usize, heads: usize) -> Result<Self> {
        const EPS: f64 = 1e-5;
        let inner = 4 * c;
        Ok(Self {
            norm_itself: w.at("norm1").layer_norm(c, EPS)?,
            itself: Attention::new(&w.at("attn1"), c, c, heads)?,
            norm_text: w.at("norm2").layer_norm(c, EPS)?,
            text: Attention::new(&w.at("attn2"), c, text_width, heads)?,
            norm_gate: w.at("norm3").layer_norm(c, EPS)?,
            gate: w.at("ff.net.0.proj").linear(c, 2 * inner)?,
            shrink: w.at("ff.net.2").linear(inner, c)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        text: &Context,
        site: Site,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let normed = self.norm_itself.forward(x)?;
        let here = Site {
            kind: Kind::Itself,
            ..site
        };
        let seen = self.itself.read(&normed)?;
        let x = &self
            .itself
            .forward_onto(x, &normed, &seen, &here, control)?;
        let normed = self.norm_text.forward(x)?;
        let here = Site {
            kind: Kind::Text,
            ..site
        };
        let x = &self.text.forward_onto(x, &normed, text, &here, control)?;
        let gated = self.gate.forward_geglu(&self.norm_gate.forward(x)?)?; // (b, n, inner)
        Ok(self.shrink.forward_onto(&gated, Some(x))?)
    }
}

/// Transformer blocks over the pixels of a picture.
#[derive(Debug)]
pub struct Transformer {
    norm: GroupNorm,
    enter: Linear,
    blocks: Vec<Block>,
    leave: Linear,
}

/// The measures of a [`Transformer`].
#[derive(Clone, Copy, Debug)]
pub struct TransformerShape {
    /// Channels of the picture.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Width of the text states.
    pub text_width: usize,
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
            depth,
            text_width,
            groups,
        } = shape;
        let blocks = w.at("transformer_blocks");
        Ok(Self {
            norm: w.at("norm").group_norm(c, groups, 1e-6)?,
            enter: w.at("proj_in").linear(c, c)?,
            blocks: (0..depth)
                .map(|i| Block::new(&blocks.at(i), c, text_width, heads))
                .collect::<Result<_>>()?,
            leave: w.at("proj_out").linear(c, c)?,
        })
    }

    /// What text states (b, m, text width) offer to each block.
    pub fn read(&self, text: &Tensor) -> Result<Vec<Context>> {
        self.blocks
            .iter()
            .map(|block| block.text.read(text))
            .collect()
    }

    /// Transforms x (b, h, w, c) under a text that was read by each block.
    pub fn forward(
        &self,
        x: &Tensor,
        text: &[Context],
        (place, level): (Place, usize),
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let shape = x.dims4()?;
        let (_, height, width, _) = shape;
        let site = Site {
            place,
            kind: Kind::Itself,
            level,
            height,
            width,
        };
        let x = x.flatten(1, 2)?; // (b, h * w, c)
        let mut y = self.enter.forward(&self.norm.forward(&x)?)?;
        for (block, text) in self.blocks.iter().zip(text) {
            y = block.forward(&y, text, site, control)?;
        }
        let y = self.leave.forward_onto(&y, Some(&x))?;
        Ok(y.reshape(shape)?) // (b, h, w, c)
    }
}
