//! The similarity of two pictures to DINOv2 (arXiv 2304.07193), as in the reference's
//! evaluation of iCD.

use candle_core::{Device, Tensor};

use super::{
    Network, NetworkFiles, original_names, positions::PositionRule, view,
    vision_transformer::VisionTransformer,
};
use crate::{error::Result, nn::Placement, picture::Picture};

/// The shorter side that pictures are resized to, and the side of their middle square.
const SIDES: [usize; 2] = [256, 224];

/// The similarity of pictures to DINOv2.
pub struct Dinov2 {
    network: VisionTransformer,
    device: Device,
}

impl Dinov2 {
    /// Loads the network, in the names of transformers or of its authors.
    pub fn open(files: &NetworkFiles, placement: &Placement) -> Result<Self> {
        let placement = placement.in_f32();
        let checkpoint = original_names::renamed(files.checkpoint(Network::Dinov2)?);
        Ok(Self {
            network: VisionTransformer::new(&checkpoint, &placement, PositionRule::Sizes)?,
            device: placement.device.clone(),
        })
    }

    /// The cosine of the class states of two pictures, of any sizes.
    pub fn similarity(&self, a: &Picture, b: &Picture) -> Result<f64> {
        cosine(&self.state(a)?, &self.state(b)?)
    }

    fn state(&self, picture: &Picture) -> Result<Tensor> {
        let pixels = view::middle_square(picture, SIDES, &view::IMAGENET, &self.device)?;
        Ok(self.network.states(&pixels)?.get(0)?.get(0)?)
    }
}

/// The cosine of two vectors.
pub(super) fn cosine(a: &Tensor, b: &Tensor) -> Result<f64> {
    let [a, b] = [a, b].map(|x| x.flatten_all()?.to_vec1::<f32>());
    let (a, b) = (a?, b?);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    Ok(dot(&a, &b) / (dot(&a, &a).sqrt() * dot(&b, &b).sqrt()).max(f64::MIN_POSITIVE))
}
