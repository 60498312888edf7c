//! A low-rank change of one layer (LoRA, arXiv 2106.09685).

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};

/// The low-rank changes of a network, by the path of the layer they change,
/// as in `down_blocks.0.attentions.0.proj_in`.
pub type LowRanks = HashMap<String, LowRank>;

/// `delta = scale * up @ down`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// (rank, inputs) for a linear layer, (rank, inputs, k, k) for a convolution.
    pub down: Tensor,
    /// (outputs, rank), for a convolution (outputs, rank, 1, 1).
    pub up: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

impl LowRank {
    /// The change of a weight with `count` values, flat and in f32, or `None`
    /// where the shapes do not belong to such a weight.
    pub fn delta(&self, outputs: usize, count: usize) -> Result<Option<Tensor>> {
        let up = self.up.to_dtype(DType::F32)?.flatten_from(1)?; // (outputs, rank)
        let down = self.down.to_dtype(DType::F32)?.flatten_from(1)?; // (rank, inputs * k * k)
        let (rank, inputs) = down.dims2()?;
        if up.dims() != [outputs, rank] || outputs * inputs != count {
            return Ok(None);
        }
        Ok(Some((up.matmul(&down)? * self.scale)?.flatten_all()?))
    }
}
