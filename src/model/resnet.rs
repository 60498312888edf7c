//! The residual block of UNets and autoencoders.

use candle_core::{Result as TensorResult, Tensor};

use crate::{
    error::Result,
    nn::{Conv2d, ConvEpilogue, GroupNorm, Linear, Stride, Weights},
};

/// Two convolutions with a skip connection (arXiv 1512.03385), and the time
/// embedding, if any, added between them.
#[derive(Debug)]
pub struct Resnet {
    pub(super) norm1: GroupNorm,
    pub(super) conv1: Conv2d,
    time: Option<Linear>,
    pub(super) norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// The norms of a network's residual blocks.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Groups of channels.
    pub groups: usize,
    /// Epsilon.
    pub eps: f64,
}

impl Resnet {
    /// A block from `inputs` to `outputs` channels; `time` is the width of the
    /// time embedding, if the network has one.
    pub fn new(
        w: &Weights,
        inputs: usize,
        outputs: usize,
        norm: Norm,
        time: Option<usize>,
    ) -> Result<Self> {
        let shortcut = w.at_any(&["conv_shortcut", "nin_shortcut"]);
        Ok(Self {
            norm1: w.at("norm1").group_norm(inputs, norm.groups, norm.eps)?,
            conv1: w.at("conv1").conv(inputs, outputs, 3, Stride::One)?,
            time: time
                .map(|width| w.at("time_emb_proj").linear(width, outputs))
                .transpose()?,
            norm2: w.at("norm2").group_norm(outputs, norm.groups, norm.eps)?,
            conv2: w.at("conv2").conv(outputs, outputs, 3, Stride::One)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(shortcut.conv(inputs, outputs, 1, Stride::One)?),
            },
        })
    }

    /// Maps x (b, h, w, inputs) with an activated time embedding (b, width).
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> TensorResult<Tensor> {
        let (hidden, shortcut) = (self.hidden(x, time)?, self.shortcut(x)?);
        let onto = ConvEpilogue {
            residual: Some(&shortcut),
            ..ConvEpilogue::default()
        };
        self.conv2.forward_normed(&self.norm2, &hidden, onto)
    }

    /// The first convolution.
    fn hidden(&self, x: &Tensor, time: Option<&Tensor>) -> TensorResult<Tensor> {
        let shift = match (&self.time, time) {
            (Some(layer), Some(time)) => Some(layer.forward(time)?), // (b, outputs)
            _ => None,
        };
        let shifted = ConvEpilogue {
            shift: shift.as_ref(),
            ..ConvEpilogue::default()
        };
        self.conv1.forward_normed(&self.norm1, x, shifted)
    }

    /// The second convolution, of y (b, h, w, outputs), plus the skip connection of x.
    pub(super) fn output(&self, y: &Tensor, x: &Tensor) -> TensorResult<Tensor> {
        let shortcut = self.shortcut(x)?;
        let onto = ConvEpilogue {
            residual: Some(&shortcut),
            ..ConvEpilogue::default()
        };
        self.conv2.forward_with(y, onto)
    }

    /// The skip connection of x.
    fn shortcut(&self, x: &Tensor) -> TensorResult<Tensor> {
        match &self.shortcut {
            Some(layer) => layer.forward(x),
            None => Ok(x.clone()),
        }
    }

    /// Number of output channels.
    pub(super) fn outputs(&self) -> usize {
        self.conv2.outputs()
    }
}
