//! Convolution and nearest upsampling.

use candle_core::{DType, Result, Tensor};

use crate::kernel::{self, Window};

/// How a 3x3 convolution walks over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stride {
    /// Every position; the size is kept.
    One,
    /// Every second position; the size is halved, rounded up.
    Two,
    /// Every second position with the border added below and right only, as
    /// the autoencoder's downsampling does; the size is halved, rounded down.
    TwoLopsided,
}

impl Stride {
    fn window(self, side: usize) -> Window {
        let half = side / 2;
        match self {
            Self::One => Window {
                side,
                stride: 1,
                before: half,
                after: half,
            },
            Self::Two => Window {
                side,
                stride: 2,
                before: half,
                after: half,
            },
            Self::TwoLopsided => Window {
                side,
                stride: 2,
                before: 0,
                after: half,
            },
        }
    }
}

/// A two-dimensional convolution over (b, c, h, w).
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: Stride,
}

impl Conv2d {
    /// A convolution of weight (outputs, inputs, k, k), k odd, padded to keep
    /// the size at stride one.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: Stride) -> Self {
        Self {
            weight,
            bias,
            stride,
        }
    }

    /// Convolves (b, inputs, h, w).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.to_dtype(x.dtype())?;
        let (outputs, _, side, _) = weight.dims4()?;
        let window = self.stride.window(side);
        let plain = x.device().is_cpu() && x.dtype() == DType::F32;
        let y = match plain && !x.track_op() && !weight.track_op() {
            true => kernel::conv2d(&x.contiguous()?, &weight.contiguous()?, window)?,
            false => composed(x, &weight, window)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?.reshape((1, outputs, 1, 1))?),
            None => Ok(y),
        }
    }
}

/// candle's convolution: differentiable, and for every device.
fn composed(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let Window {
        stride,
        before,
        after,
        ..
    } = window;
    if before == after {
        return x.conv2d(weight, before, stride, 1, 1);
    }
    let x = x
        .pad_with_zeros(2, before, after)?
        .pad_with_zeros(3, before, after)?;
    x.conv2d(weight, 0, stride, 1, 1)
}

/// Enlarges (b, c, h, w) to the given height and width by repeating the
/// nearest value: source index `floor(i * from / to)` in f32, as PyTorch's
/// `interpolate` computes it.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let rows = Tensor::new(nearest(h, height), x.device())?;
    let columns = Tensor::new(nearest(w, width), x.device())?;
    x.contiguous()?
        .index_select(&rows, 2)?
        .index_select(&columns, 3)
}

fn nearest(from: usize, to: usize) -> Vec<u32> {
    let scale = from as f32 / to as f32;
    let index = |i: usize| ((i as f32 * scale) as usize).min(from - 1) as u32;
    (0..to).map(index).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn nearest_upsampling_picks_the_pixels_that_pytorch_picks() {
        // interpolate(torch.arange(n).view(1, 1, 1, n).float(), size=(1, m)).flatten()
        assert_eq!(nearest(4, 7), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(nearest(5, 10), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(nearest(7, 25)[..9], [0, 0, 0, 0, 1, 1, 1, 1, 2]);
        assert_eq!(nearest(1, 3), [0, 0, 0]);
    }

    #[test]
    fn the_lopsided_stride_pads_below_and_right() {
        // conv2d(pad(x, (0, 1, 0, 1)), ones(1, 1, 3, 3), stride=2), x = arange(16)
        let x = Tensor::arange(0f32, 16., &Device::Cpu)
            .unwrap()
            .reshape((1, 1, 4, 4))
            .unwrap();
        let ones = Tensor::ones((1, 1, 3, 3), x.dtype(), x.device()).unwrap();
        let y = Conv2d::new(ones, None, Stride::TwoLopsided)
            .forward(&x)
            .unwrap();
        assert_eq!(
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [45., 39., 66., 50.]
        );
    }

    #[test]
    fn stride_two_rounds_odd_sizes_up() {
        let x = Tensor::ones((1, 1, 5, 7), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ones = Tensor::ones((1, 1, 3, 3), x.dtype(), x.device()).unwrap();
        let y = Conv2d::new(ones, None, Stride::Two).forward(&x).unwrap();
        assert_eq!(y.dims(), [1, 1, 3, 4]);
        // The corner sees four ones, the edge six, the inside nine.
        assert_eq!(
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[..5],
            [4., 6., 6., 4., 6.]
        );
    }
}
