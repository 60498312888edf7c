//! The structure distance of Splice (arXiv 2201.00424), as PnPInversion's evaluation computes
//! it: how far the self-similarities of the keys of DINO's last block are from each other.

use candle_core::{Device, Tensor};

use super::{
    Antialias, Network, NetworkFiles, original_names, positions::PositionRule, view,
    vision_transformer::VisionTransformer,
};
use crate::{
    error::{Error, Result},
    nn::Placement,
    picture::Picture,
};

/// Keeps the product of two lengths from being 0.
const EPS: f64 = 1e-8;

/// The structure distance.
pub struct StructureDistance {
    network: VisionTransformer,
    antialias: Antialias,
    device: Device,
}

impl StructureDistance {
    /// Loads the network, a DINO in the names of transformers or of its authors.
    pub fn open(files: &NetworkFiles, placement: &Placement, antialias: Antialias) -> Result<Self> {
        let placement = placement.in_f32();
        let checkpoint = original_names::renamed(files.checkpoint(Network::Dino)?);
        Ok(Self {
            network: VisionTransformer::new(&checkpoint, &placement, PositionRule::Dino)?,
            antialias,
            device: placement.device.clone(),
        })
    }

    /// The mean squared difference of the self-similarities of two pictures of one aspect.
    pub fn distance(&self, a: &Picture, b: &Picture) -> Result<f64> {
        let [first, second] = [self.similarities(a)?, self.similarities(b)?];
        if first.dims() != second.dims() {
            return Err(Error::setting(format!(
                "pictures of {} and {} have no structures to compare: both need one aspect",
                a.size(),
                b.size()
            )));
        }
        let gap = (first - second)?.sqr()?.mean_all()?;
        Ok(f64::from(gap.to_scalar::<f32>()?))
    }

    /// The cosines of all pairs of keys (tokens, tokens).
    fn similarities(&self, picture: &Picture) -> Result<Tensor> {
        let pixels = view::of_structure(picture, self.antialias, &self.device)?;
        let keys = self.network.last_keys(&pixels)?;
        let lengths = keys.sqr()?.sum_keepdim(1)?.sqrt()?; // (tokens, 1)
        let products = lengths.matmul(&lengths.t()?.contiguous()?)?.maximum(EPS)?;
        Ok((keys.matmul(&keys.t()?.contiguous()?)? / products)?)
    }
}
