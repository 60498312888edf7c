//! Convolution of pictures (b, h, w, c).

use candle_core::{Result, Tensor};

use super::{
    GroupNorm, LayerWeight, LoraDelta,
    lora::LoraBranch,
    ops::{ConvWeight, Ops},
};
use crate::kernel::{ConvEpilogue, ConvGeometry};

/// Stride and padding of a 3x3 convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stride {
    /// Stride 1; the size is kept.
    One,
    /// Stride 2; the size is halved, rounded up.
    Two,
    /// Stride 2 with padding below and right only, as in the autoencoder's
    /// downsampling; the size is halved, rounded down.
    TwoPadRightBottom,
}

impl Stride {
    pub(super) fn geometry(self, side: usize) -> ConvGeometry {
        let same = ConvGeometry::same(side);
        match self {
            Self::One => same,
            Self::Two => ConvGeometry { stride: 2, ..same },
            Self::TwoPadRightBottom => ConvGeometry {
                stride: 2,
                before: 0,
                ..same
            },
        }
    }
}

/// A two-dimensional convolution over (b, h, w, c).
#[derive(Clone, Debug)]
pub struct Conv2d {
    ops: &'static dyn Ops,
    weight: ConvWeight,
    bias: Tensor,
    geometry: ConvGeometry,
    lora: Option<Box<LoraBranch<Self>>>,
}

impl Conv2d {
    /// Creates a convolution with a weight (outputs, inputs, k, k), k odd, padded to keep
    /// the size at stride 1.
    pub fn new<'a>(
        ops: &'static dyn Ops,
        weight: impl Into<LayerWeight<'a>>,
        bias: Option<Tensor>,
        stride: Stride,
    ) -> Result<Self> {
        let weight = weight.into();
        let (outputs, _, side, _) = weight.shape().dims4()?;
        let bias = match bias {
            Some(bias) => bias,
            None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
        };
        Ok(Self {
            ops,
            bias: ops.pack_bias(bias)?,
            weight: ops.pack_conv2d(&weight)?,
            geometry: stride.geometry(side),
            lora: None,
        })
    }

    /// Adds a LoRA branch, which may be trained: a convolution of the same stride to
    /// fewer channels, then a map to the outputs. The weight is shared with this layer.
    pub fn with_lora(&self, delta: &LoraDelta) -> Result<Self> {
        let mut down = Self::new(self.ops, delta.down.clone(), None, Stride::One)?;
        down.geometry = self.geometry;
        Ok(Self {
            lora: Some(Box::new(LoraBranch::new(self.ops, down, delta)?)),
            ..self.clone()
        })
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// Convolves (b, h, w, inputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, ConvEpilogue::default())
    }

    /// Convolves (b, h, w, inputs) with an epilogue in addition to the layer's bias.
    pub fn forward_with(&self, x: &Tensor, epilogue: ConvEpilogue) -> Result<Tensor> {
        let Some(lora) = &self.lora else {
            return self.base(x, epilogue);
        };
        let upsampled = ConvEpilogue {
            upsample: epilogue.upsample,
            ..ConvEpilogue::default()
        };
        let onto = lora.forward_onto(&lora.down.forward_with(x, upsampled)?, epilogue.residual)?;
        let epilogue = ConvEpilogue {
            residual: Some(&onto),
            ..epilogue
        };
        self.base(x, epilogue)
    }

    /// Convolves the SiLU of a group norm of (b, h, w, inputs), with an epilogue in addition
    /// to the layer's bias.
    pub fn forward_normed(
        &self,
        norm: &GroupNorm,
        x: &Tensor,
        epilogue: ConvEpilogue,
    ) -> Result<Tensor> {
        if self.lora.is_some() {
            return self.forward_with(&norm.forward_silu(x)?, epilogue);
        }
        let bias = Some(&self.bias);
        let epilogue = ConvEpilogue { bias, ..epilogue };
        self.ops
            .norm_silu_conv2d(x, norm, &self.weight, self.geometry, epilogue)
    }

    /// The convolution without its LoRA branch.
    fn base(&self, x: &Tensor, epilogue: ConvEpilogue) -> Result<Tensor> {
        let bias = Some(&self.bias);
        let epilogue = ConvEpilogue { bias, ..epilogue };
        self.ops.conv2d(x, &self.weight, self.geometry, epilogue)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::ops::{Composed, Packed};

    fn conv(ops: &'static dyn Ops, stride: Stride) -> Conv2d {
        let ones = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        Conv2d::new(ops, ones, None, stride).unwrap()
    }

    #[test]
    fn the_stride_of_downsampling_pads_below_and_right() {
        // conv2d(pad(x, (0, 1, 0, 1)), ones(1, 1, 3, 3), stride=2), x = arange(16)
        let x = Tensor::arange(0f32, 16., &Device::Cpu).unwrap();
        let x = x.reshape((1, 4, 4, 1)).unwrap();
        for ops in [&Packed::F32 as &'static dyn Ops, &Composed] {
            let y = conv(ops, Stride::TwoPadRightBottom).forward(&x).unwrap();
            let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(y, [45., 39., 66., 50.]);
        }
    }

    #[test]
    fn stride_two_rounds_odd_sizes_up() {
        let x = Tensor::ones((1, 5, 7, 1), DType::F32, &Device::Cpu).unwrap();
        for ops in [&Packed::F32 as &'static dyn Ops, &Composed] {
            let y = conv(ops, Stride::Two).forward(&x).unwrap();
            assert_eq!(y.dims(), [1, 3, 4, 1]);
            // The corner sees four ones, the edge six, the inside nine.
            let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(y[..5], [4., 6., 6., 4., 6.]);
        }
    }
}
