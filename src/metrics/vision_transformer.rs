//! The vision transformers of DINO and DINOv2 (arXiv 2010.11929, 2104.14294, 2304.07193), in
//! the names of transformers.

use candle_core::{Device, Tensor};

use super::positions::{self, PositionRule};
use crate::{
    error::Result,
    io::Checkpoint,
    nn::{
        Activation, LayerNorm, Linear, Placement, Weights,
        ops::{AttentionMode, Ops},
    },
};

/// Channels of an attention head, in all published ones.
pub(super) const HEAD: usize = 64;
const EPS: f64 = 1e-6;

/// A vision transformer. Its widths and its depth are those of the tensors.
pub(super) struct VisionTransformer {
    /// A pixel of the side of a patch after the other: (3 * side * side) to the width.
    patches: Linear,
    side: usize,
    /// The class token (1, 1, c) and its position (1, 1, c).
    class: Tensor,
    /// The positions of patches, a row each.
    positions: Vec<f32>,
    grid: usize,
    rule: PositionRule,
    blocks: Vec<Block>,
    norm: LayerNorm,
    width: usize,
    device: Device,
}

impl VisionTransformer {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        placement: &Placement,
        rule: PositionRule,
    ) -> Result<Self> {
        let w = Weights::new(checkpoint, placement);
        let embeddings = w.at("embeddings");
        let projection = embeddings.at("patch_embeddings.projection");
        let shape = projection.sides("weight", 4)?;
        let (width, side) = (shape[0], shape[2]);
        let weight = projection.tensor("weight", (width, 3, side, side))?;
        let bias = projection.tensor("bias", width)?;
        let rows = embeddings.sides("position_embeddings", 3)?[1];
        let table = embeddings.tensor("position_embeddings", (1, rows, width))?;
        let class = embeddings.tensor("cls_token", (1, 1, width))?;
        let grid = (rows.saturating_sub(1)).isqrt();
        if grid * grid + 1 != rows || !width.is_multiple_of(HEAD) {
            let reason = format!("{rows} positions of width {width} are not those of a DINO");
            return Err(checkpoint.tensor_fault("embeddings.position_embeddings", &reason));
        }
        let layers = w.at("encoder.layer");
        let count = (0..).take_while(|i| layers.at(i).exists()).count();
        Ok(Self {
            patches: Linear::new(w.ops(), weight.reshape((width, ()))?, Some(bias))?,
            side,
            class: (class + table.narrow(1, 0, 1)?)?,
            positions: table.narrow(1, 1, rows - 1)?.flatten_all()?.to_vec1()?,
            grid,
            rule,
            blocks: (0..count)
                .map(|i| Block::new(&layers.at(i), width))
                .collect::<Result<_>>()?,
            norm: w.at("layernorm").layer_norm(width, EPS)?,
            width,
            device: placement.device.clone(),
        })
    }

    /// The final states (1, tokens, width) of pixels (1, 3, h, w); the first is the class's.
    pub(super) fn states(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.embed(pixels)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(self.norm.forward(&x)?)
    }

    /// The keys (tokens, width) of the last block, the heads side by side.
    pub(super) fn last_keys(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.embed(pixels)?;
        let Some((last, before)) = self.blocks.split_last() else {
            return Ok(x.squeeze(0)?);
        };
        for block in before {
            x = block.forward(&x)?;
        }
        let keys = last.key.forward(&last.norm1.forward(&x)?)?;
        Ok(keys.squeeze(0)?)
    }

    /// The class token and the patches with their positions (1, 1 + rows * columns, width).
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = pixels.dims4()?;
        let side = self.side;
        let (rows, columns) = (h / side, w / side);
        let whole = pixels
            .narrow(2, 0, rows * side)?
            .narrow(3, 0, columns * side)?;
        let patches = whole
            .reshape((3, rows, side, columns * side))?
            .reshape(vec![3, rows, side, columns, side])?
            .permute([1, 3, 0, 2, 4])?
            .reshape((1, rows * columns, 3 * side * side))?;
        let positions = self.positions_of([rows, columns])?;
        let patches = (self.patches.forward(&patches.contiguous()?)? + positions)?;
        Ok(Tensor::cat(&[&self.class, &patches], 1)?)
    }

    fn positions_of(&self, patches: [usize; 2]) -> Result<Tensor> {
        let table = match patches == [self.grid; 2] {
            true => self.positions.clone(),
            false => {
                let shape = (self.grid, self.width);
                positions::resized(&self.positions, shape, patches, self.rule)
            }
        };
        let shape = (1, patches[0] * patches[1], self.width);
        Ok(Tensor::from_vec(table, shape, &Device::Cpu)?.to_device(&self.device)?)
    }
}

struct Block {
    ops: &'static dyn Ops,
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    /// The factors of both branches (c), in DINOv2.
    scales: [Option<Tensor>; 2],
    heads: usize,
}

impl Block {
    fn new(w: &Weights, c: usize) -> Result<Self> {
        let attention = w.at("attention.attention");
        let fc1 = w.at_any(&["mlp.fc1", "intermediate.dense"]);
        let inner = fc1.sides("weight", 2)?[0];
        let scale = |name: &str| {
            let is_there = w.shape(name).is_some();
            is_there.then(|| w.tensor(name, c)).transpose()
        };
        Ok(Self {
            ops: w.ops(),
            norm1: w
                .at_any(&["norm1", "layernorm_before"])
                .layer_norm(c, EPS)?,
            query: attention.at("query").linear(c, c)?,
            key: attention.at("key").linear(c, c)?,
            value: attention.at("value").linear(c, c)?,
            out: w.at("attention.output.dense").linear(c, c)?,
            norm2: w.at_any(&["norm2", "layernorm_after"]).layer_norm(c, EPS)?,
            fc1: fc1.linear(c, inner)?,
            fc2: w.at_any(&["mlp.fc2", "output.dense"]).linear(inner, c)?,
            scales: [
                scale("layer_scale1.lambda1")?,
                scale("layer_scale2.lambda1")?,
            ],
            heads: c / HEAD,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let q = self.query.forward(&normed)?; // (1, n, c)
        let k = self.key.forward(&normed)?;
        let v = self.value.forward(&normed)?;
        let read = self
            .ops
            .attention([&q, &k, &v], self.heads, AttentionMode::Full)?;
        let x = added(x, &self.out.forward(&read)?, self.scales[0].as_ref())?;
        let y = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let y = self.ops.activate(&y, Activation::Gelu)?;
        added(&x, &self.fc2.forward(&y)?, self.scales[1].as_ref())
    }
}

/// x and a branch, scaled.
fn added(x: &Tensor, branch: &Tensor, scale: Option<&Tensor>) -> candle_core::Result<Tensor> {
    match scale {
        Some(scale) => x + branch.broadcast_mul(scale)?,
        None => x + branch,
    }
}
