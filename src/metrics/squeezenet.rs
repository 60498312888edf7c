//! SqueezeNet 1.1 (arXiv 1602.07360) up to its last features, in torchvision's names.

use candle_core::Tensor;

use crate::{
    error::Result,
    nn::{Conv2d, Stride, Weights, channels_last},
};

/// The places of fire modules in `features`; pooling is in front of the second, third and
/// fourth pair.
const FIRES: [usize; 8] = [3, 4, 6, 7, 9, 10, 11, 12];
/// The fire modules in front of which features are pooled.
const POOLED: [usize; 3] = [3, 6, 9];
/// The fire modules behind which features are taken; the first ones are those of the
/// convolution.
const TAPPED: [usize; 6] = [4, 7, 9, 10, 11, 12];

/// Side of the pooled windows, which overlap by one.
const WINDOW: usize = 3;
const STEP: usize = 2;

/// The features of a picture at seven depths.
pub(super) struct SqueezeNet {
    first: Conv2d,
    fires: Vec<(usize, Fire)>,
}

impl SqueezeNet {
    pub(super) fn new(w: &Weights) -> Result<Self> {
        let w = w.at("features");
        let channels = |w: &Weights| Ok::<_, crate::Error>(outputs(w)?);
        let first = w.at(0);
        let mut inputs = channels(&first)?;
        let conv = first.conv(3, inputs, WINDOW, Stride::TwoPadRightBottom)?;
        let mut fires = Vec::new();
        for place in FIRES {
            let (fire, outputs) = Fire::new(&w.at(place), inputs)?;
            fires.push((place, fire));
            inputs = outputs;
        }
        Ok(Self { first: conv, fires })
    }

    /// The features (1, h, w, c) of pixels (1, 3, h, w), from the first to the last.
    pub(super) fn features(&self, pixels: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = unpadded(&self.first, &channels_last(pixels)?)?.relu()?;
        let mut taken = vec![x.clone()];
        for (place, fire) in &self.fires {
            if POOLED.contains(place) {
                x = pooled(&x)?;
            }
            x = fire.forward(&x)?;
            if TAPPED.contains(place) {
                taken.push(x.clone());
            }
        }
        Ok(taken)
    }
}

/// The number of outputs of a convolution.
fn outputs(w: &Weights) -> Result<usize> {
    Ok(w.sides("weight", 4)?[0])
}

/// Of stride 2 without padding: what padding to the right and below adds is cut off.
fn unpadded(conv: &Conv2d, x: &Tensor) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let side = |side: usize| side.saturating_sub(WINDOW) / STEP + 1;
    let y = conv.forward(x)?;
    Ok(y.narrow(1, 0, side(h))?
        .narrow(2, 0, side(w))?
        .contiguous()?)
}

/// A squeeze to few channels, and two expansions side by side.
struct Fire {
    squeeze: Conv2d,
    narrow: Conv2d,
    wide: Conv2d,
}

impl Fire {
    /// Reads a module; it and its number of outputs.
    fn new(w: &Weights, inputs: usize) -> Result<(Self, usize)> {
        let [squeeze, narrow, wide] = ["squeeze", "expand1x1", "expand3x3"].map(|name| w.at(name));
        let few = outputs(&squeeze)?;
        let (first, second) = (outputs(&narrow)?, outputs(&wide)?);
        let fire = Self {
            squeeze: squeeze.conv(inputs, few, 1, Stride::One)?,
            narrow: narrow.conv(few, first, 1, Stride::One)?,
            wide: wide.conv(few, second, WINDOW, Stride::One)?,
        };
        Ok((fire, first + second))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let few = self.squeeze.forward(x)?.relu()?;
        let both = [self.narrow.forward(&few)?, self.wide.forward(&few)?];
        Ok(Tensor::cat(&both, 3)?.relu()?)
    }
}

/// The largest value of each window of x (1, h, w, c); the last windows may reach beyond the
/// picture.
fn pooled(x: &Tensor) -> Result<Tensor> {
    let (_, height, width, channels) = x.dims4()?;
    let windows = |side: usize| side.saturating_sub(WINDOW).div_ceil(STEP) + 1;
    let (rows, columns) = (windows(height), windows(width));
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    let mut out = vec![f32::NEG_INFINITY; rows * columns * channels];
    for (place, largest) in out.chunks_exact_mut(channels).enumerate() {
        let (top, left) = (place / columns * STEP, place % columns * STEP);
        for y in top..(top + WINDOW).min(height) {
            for x in left..(left + WINDOW).min(width) {
                let pixel = &values[(y * width + x) * channels..][..channels];
                let pairs = largest.iter_mut().zip(pixel);
                pairs.for_each(|(largest, value)| *largest = largest.max(*value));
            }
        }
    }
    Ok(Tensor::from_vec(
        out,
        (1, rows, columns, channels),
        x.device(),
    )?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_last_window_may_reach_beyond_the_picture() {
        // max_pool2d(arange(20).reshape(1, 1, 4, 5), 3, 2, ceil_mode=True)
        let x = Tensor::arange(0f32, 20.0, &Device::Cpu).unwrap();
        let y = pooled(&x.reshape((1, 4, 5, 1)).unwrap()).unwrap();
        assert_eq!(y.dims(), [1, 2, 2, 1]);
        let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(y, [12.0, 14.0, 17.0, 19.0]);
    }
}
