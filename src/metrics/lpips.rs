//! LPIPS (arXiv 1801.03924): the distance of the features of two pictures, version 0.1 with
//! SqueezeNet, as torchmetrics computes it.

use candle_core::{Device, Tensor};

use super::{Network, NetworkFiles, squeezenet::SqueezeNet};
use crate::{
    error::{Error, Result},
    io::Checkpoint,
    nn::{Placement, Weights},
    picture::{Picture, Size},
};

/// What is subtracted from channels from -1 to 1, and what they are divided by then.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// Keeps the length of features from being 0.
const EPS: f64 = 1e-8;
/// The shortest side of pictures: below, features vanish.
const SHORTEST: usize = 17;

/// LPIPS with SqueezeNet 1.1.
pub struct Lpips {
    network: SqueezeNet,
    /// The weight of each channel at each depth (1, 1, 1, c).
    linear: Vec<Tensor>,
    device: Device,
}

impl Lpips {
    /// Loads SqueezeNet and the linear layers, which are in the same file or in one beside it,
    /// under the names of the package `lpips` (`lin0.model.1.weight`, ..).
    pub fn open(files: &NetworkFiles, placement: &Placement) -> Result<Self> {
        let placement = placement.in_f32();
        let checkpoint = files.checkpoint(Network::Lpips)?;
        let weights = Weights::new(&checkpoint, &placement);
        let network = SqueezeNet::new(&weights)?;
        let linear = if weights.at("lin0").exists() {
            linear(&weights)?
        } else {
            let beside = Checkpoint::open(files.linear_layers()?)?;
            linear(&Weights::new(&beside, &placement))?
        };
        Ok(Self {
            network,
            linear,
            device: placement.device.clone(),
        })
    }

    /// The distance of two pictures of the same size, 0 if they are equal.
    pub fn distance(&self, a: &Picture, b: &Picture) -> Result<f64> {
        let size = a.size();
        if size != b.size() || size.width.min(size.height) < SHORTEST {
            return Err(Error::setting(format!(
                "pictures of {size} and {} cannot be compared by LPIPS: both need one size of at \
                 least {SHORTEST}x{SHORTEST}",
                b.size()
            )));
        }
        let features = |picture| self.network.features(&scaled(picture, &self.device)?);
        let pairs = features(a)?.into_iter().zip(features(b)?);
        let depths = pairs.zip(&self.linear).map(|((a, b), weight)| {
            let gap = (unit(&a)? - unit(&b)?)?.sqr()?.broadcast_mul(weight)?;
            Ok(f64::from(gap.sum(3)?.mean_all()?.to_scalar::<f32>()?))
        });
        depths.sum()
    }
}

/// The seven layers, which are 1x1 convolutions to one channel.
fn linear(weights: &Weights) -> Result<Vec<Tensor>> {
    let layer = |depth: usize| {
        let layer = weights.at(format!("lin{depth}.model.1"));
        let channels = layer.sides("weight", 4)?[1];
        let weight = layer.tensor("weight", (1, channels, 1, 1))?;
        Ok(weight.reshape((1, 1, 1, channels))?)
    };
    (0..7).map(layer).collect()
}

/// The picture as SqueezeNet was trained: (1, 3, h, w).
fn scaled(picture: &Picture, device: &Device) -> Result<Tensor> {
    let Size { width, height } = picture.size();
    let of = |channel: usize| {
        let values = picture.pixels().iter().skip(channel).step_by(3);
        values.map(move |value| {
            (f32::from(*value) / 255.0 * 2.0 - 1.0 - SHIFT[channel]) / SCALE[channel]
        })
    };
    let values: Vec<_> = (0..3).flat_map(of).collect();
    Ok(Tensor::from_vec(values, (1, 3, height, width), &Device::Cpu)?.to_device(device)?)
}

/// Features of unit length over the channels.
fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(3)? + EPS)?.sqrt()?;
    x.broadcast_div(&length)
}
