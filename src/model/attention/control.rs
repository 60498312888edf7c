//! The hook through which an edit controls attention.

use candle_core::Tensor;

use crate::error::Result;

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
    pub(in crate::model) fn at(place: BlockPlace, level: usize) -> Self {
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
    /// The queries of every row read the keys and values of the first row.
    FirstRowsKeysValues,
    /// The maps are computed and passed to `rewrite`.
    Maps,
    /// The control computes what is read, in `attend`.
    Attention,
}

/// Plain attention of queries (b, n, c) over keys and values (b, m, c): (b, n, c).
pub type Attend<'a> = &'a dyn Fn([&Tensor; 3]) -> Result<Tensor>;

/// Reads and optionally rewrites attention maps during a UNet evaluation; by default it does
/// nothing.
pub trait AttentionControl {
    /// The intervention requested at `site`.
    fn intervention(&self, _site: &Site) -> Intervention {
        Intervention::None
    }

    /// The intervention requested at `site` in the evaluation without text of classifier-free
    /// guidance, which follows the one with it. Maps of words are none of its: by default
    /// nothing.
    fn unconditional_intervention(&self, _site: &Site) -> Intervention {
        Intervention::None
    }

    /// Rewrites the requested maps (rows, heads, queries, keys); on input they sum
    /// to one over the keys.
    fn rewrite(&mut self, _site: &Site, maps: Tensor) -> Result<Tensor> {
        Ok(maps)
    }

    /// Shows the maps that were requested, by whatever control, as they are used.
    fn seen(&mut self, _site: &Site, _maps: &Tensor) -> Result<()> {
        Ok(())
    }

    /// What queries (rows, n, c) read of keys and values of the same shape.
    fn attend(&mut self, _site: &Site, qkv: [&Tensor; 3], attend: Attend) -> Result<Tensor> {
        attend(qkv)
    }
}

/// The control that does not intervene.
#[derive(Clone, Copy, Debug)]
pub struct NoControl;

impl AttentionControl for NoControl {}
