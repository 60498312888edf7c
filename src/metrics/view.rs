//! What a network sees of a picture.

use candle_core::{Device, Tensor};

use super::resample::{Antialias, bilinear};
use crate::{
    error::Result,
    picture::{Picture, Size},
};

/// Mean and standard deviation of each channel, of values from 0 to 1.
pub(super) struct Channels {
    pub(super) mean: [f32; 3],
    pub(super) deviation: [f32; 3],
}

/// Those of ImageNet.
pub(super) const IMAGENET: Channels = Channels {
    mean: [0.485, 0.456, 0.406],
    deviation: [0.229, 0.224, 0.225],
};

/// Those of CLIP.
pub(super) const CLIP: Channels = Channels {
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    deviation: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

/// The middle square of a picture as transformers' image processors cut it: the shorter side is
/// resized to `shorter`, bicubic and antialiased in 8 bits, then `side` pixels are taken each
/// way and normalised: (1, 3, side, side).
pub(super) fn middle_square(
    picture: &Picture,
    [shorter, side]: [usize; 2],
    channels: &Channels,
    device: &Device,
) -> Result<Tensor> {
    let resized = picture.resized(with_shorter(picture.size(), shorter));
    let Size { width, height } = resized.size();
    let (left, top) = ((width - side) / 2, (height - side) / 2);
    let value = |channel: usize, x: usize, y: usize| {
        let byte = resized.pixels()[3 * ((top + y) * width + left + x) + channel];
        (f32::from(byte) / 255.0 - channels.mean[channel]) / channels.deviation[channel]
    };
    let rows = (0..3 * side).flat_map(|row| (0..side).map(move |x| (row / side, x, row % side)));
    let values: Vec<_> = rows.map(|(channel, x, y)| value(channel, x, y)).collect();
    Ok(Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu)?.to_device(device)?)
}

/// The size with this shorter side; the longer one is rounded down.
fn with_shorter(size: Size, shorter: usize) -> Size {
    let scaled = |side: usize, other: usize| (shorter as u64 * side as u64 / other as u64) as usize;
    match size.width <= size.height {
        true => Size::new(shorter, scaled(size.height, size.width)),
        false => Size::new(scaled(size.width, size.height), shorter),
    }
}

/// The picture as the structure distance sees it: values from 0 to 255, from which the mean of
/// ImageNet is subtracted as if they were from 0 to 1, as in the reference: (1, 3, h, w).
pub(super) fn of_structure(
    picture: &Picture,
    antialias: Antialias,
    device: &Device,
) -> Result<Tensor> {
    const SHORTER: usize = 224;
    const LONGEST: usize = 480;
    let to = bounded(with_shorter(picture.size(), SHORTER), LONGEST);
    let mut values = bilinear(picture, to, antialias);
    for (channel, plane) in values.chunks_exact_mut(to.pixels()).enumerate() {
        let (mean, deviation) = (IMAGENET.mean[channel], IMAGENET.deviation[channel]);
        for value in plane {
            *value = (*value - mean) / deviation;
        }
    }
    let shape = (1, 3, to.height, to.width);
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?)
}

/// The size, made smaller if its longer side has more than `longest` pixels.
fn bounded(size: Size, longest: usize) -> Size {
    let long = size.width.max(size.height);
    let scaled = |side: usize| match side == long {
        true => longest,
        false => (longest * side / long).max(1),
    };
    match long > longest {
        true => Size::new(scaled(size.width), scaled(size.height)),
        false => size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_those_of_torchvision() {
        // transforms.Resize(224, max_size=480) of these, as (width, height).
        for (from, to) in [
            ((512, 512), (224, 224)),
            ((640, 427), (335, 224)),
            ((100, 333), (144, 480)),
            ((1000, 300), (480, 144)),
            ((64, 65), (224, 227)),
        ] {
            let size = with_shorter(Size::new(from.0, from.1), 224);
            assert_eq!(bounded(size, 480), Size::new(to.0, to.1), "{from:?}");
        }
    }
}
