//! The UNet's conditioning besides the text hidden states: timestep, guidance
//! scale and, for SDXL, the pooled text embeddings and sizes.

use candle_core::{DType, Device, Tensor};

use super::UnetConfig;
use crate::{
    error::{Error, Result, Setting},
    nn::{Activation, Linear, Weights, ops::Ops},
    schedule::Timestep,
};

/// SDXL's size conditioning: original size, crop corner, target size. The iCD reference
/// always uses 1024.
const SDXL_SIZES: [f64; 6] = [1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0];

/// Sines and cosines of `value` times each frequency (arXiv 1706.03762).
///
/// Every step rounds to f32 as the reference does: near w = 19 the argument is
/// 19000, where the f32 spacing is 0.002.
fn sinusoids(value: f64, frequencies: impl Iterator<Item = f32>) -> (Vec<f32>, Vec<f32>) {
    let angles = frequencies.map(|frequency| f64::from(value as f32 * frequency));
    angles
        .map(|angle| (angle.sin() as f32, angle.cos() as f32))
        .unzip()
}

/// e to the `exponent`, rounded once.
fn exp(exponent: f32) -> f32 {
    f64::from(exponent).exp() as f32
}

/// Sinusoidal features of a timestep or a size: cosines, then sines, of frequencies
/// that decrease geometrically from 1 towards 1/10000.
fn time_features(value: f64, width: usize) -> Vec<f32> {
    let half = width / 2;
    let frequency = |i: usize| exp(-10000f32.ln() * i as f32 / half as f32);
    let (sines, cosines) = sinusoids(value, (0..half).map(frequency));
    [cosines, sines].concat()
}

/// Sinusoidal features of a guidance scale: sines, then cosines, of 1000 w, with
/// frequencies down to 1/10000 (arXiv 2210.03142, in the form of
/// variational diffusion models).
fn guidance_features(w: f64, width: usize) -> Vec<f32> {
    let half = width / 2;
    let step = 10000f32.ln() / (half.max(2) - 1) as f32;
    let (sines, cosines) = sinusoids(w * 1000.0, (0..half).map(|i| exp(i as f32 * -step)));
    let mut features = [sines, cosines].concat();
    features.resize(width, 0.0); // an odd width ends in a zero
    features
}

/// SDXL's added conditioning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PooledText {
    /// Width of the pooled text embeddings.
    pub width: usize,
    /// Width of the features of each of the six sizes.
    pub size_width: usize,
}

/// The guidance embedding of a UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeCondProj {
    /// As the weights have it: nothing describes them.
    AsStored,
    /// Its width (`time_cond_proj_dim`), or none at all.
    Stated(Option<usize>),
}

/// Two linear layers with SiLU between them.
#[derive(Debug)]
struct Mlp {
    ops: &'static dyn Ops,
    first: Linear,
    second: Linear,
}

impl Mlp {
    fn new(w: &Weights, inputs: usize, width: usize) -> Result<Self> {
        let first = w.at("linear_1").linear(inputs, width)?;
        Ok(Self {
            ops: w.ops(),
            first,
            second: w.at("linear_2").linear(width, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok({
            let hidden = self
                .ops
                .activate(&self.first.forward(x)?, Activation::Silu)?;
            self.second.forward(&hidden)?
        })
    }
}

/// The time embedding passed to every residual block. It is small and its rounding
/// errors affect every block, so it is computed in f32.
#[derive(Debug)]
pub struct Embedding {
    time: Mlp,
    guidance: Option<(Linear, usize)>,
    pooled: Option<(Mlp, PooledText)>,
    channels: usize,
    device: Device,
    /// The compute dtype of the residual blocks.
    pub(super) compute: DType,
}

impl Embedding {
    /// Loads the embedding of a network with this configuration.
    pub(super) fn new(w: &Weights, config: &UnetConfig) -> Result<Self> {
        let (channels, pooled) = (config.levels[0].channels, config.pooled);
        let (exact, compute) = (w.placement().in_f32(), w.placement().compute_dtype());
        let (w, width) = (w.with_placement(&exact), 4 * channels);
        let guide = w.at("time_embedding").at("cond_proj");
        let stored = || guide.shape("weight")?.get(1).copied();
        let guidance = match config.time_cond_proj {
            TimeCondProj::AsStored => stored(),
            TimeCondProj::Stated(width) => width,
        };
        let added = |pooled: PooledText| -> Result<_> {
            let inputs = pooled.width + SDXL_SIZES.len() * pooled.size_width;
            Ok((Mlp::new(&w.at("add_embedding"), inputs, width)?, pooled))
        };
        Ok(Self {
            time: Mlp::new(&w.at("time_embedding"), channels, width)?,
            guidance: guidance
                .map(|inputs| Ok::<_, Error>((guide.linear(inputs, channels)?, inputs)))
                .transpose()?,
            pooled: pooled.map(added).transpose()?,
            channels,
            device: exact.device.clone(),
            compute,
        })
    }

    /// Whether it has a guidance embedding (was guidance-distilled).
    pub fn takes_guidance(&self) -> bool {
        self.guidance.is_some()
    }

    /// The activated embedding (rows, 4 * channels) of a timestep and a guidance
    /// scale per row and, if the network uses them, the pooled text embeddings
    /// (rows, width).
    pub fn forward(
        &self,
        times: &[Timestep],
        guidance: &[f64],
        pooled: Option<&Tensor>,
    ) -> Result<Tensor> {
        let rows = guidance.len();
        let features = times
            .iter()
            .flat_map(|t| time_features(f64::from(t.0), self.channels))
            .collect();
        let mut x = self.tensor(features, rows)?; // (rows, channels)
        match &self.guidance {
            Some((layer, width)) => {
                x = (x + layer.forward(&self.guidance_features(guidance, *width)?)?)?;
            }
            None if guidance.iter().any(|&w| w != 0.0) => {
                let reason = "this UNet has no guidance embedding: use a guidance-distilled one, or \
                              a guidance of 0";
                return Err(Error::of(Setting::Guidance, reason));
            }
            None => {}
        }
        let mut embedding = self.time.forward(&x)?;
        if let Some((mlp, shape)) = &self.pooled {
            embedding = (embedding + mlp.forward(&self.added(pooled, *shape, rows)?)?)?;
        }
        Ok(self
            .time
            .ops
            .activate(&embedding, Activation::Silu)?
            .to_dtype(self.compute)?)
    }

    fn guidance_features(&self, guidance: &[f64], width: usize) -> Result<Tensor> {
        let features = guidance
            .iter()
            .flat_map(|&w| guidance_features(w, width))
            .collect();
        self.tensor(features, guidance.len())
    }

    /// The pooled text embeddings concatenated with the size features: (rows, inputs).
    fn added(&self, pooled: Option<&Tensor>, shape: PooledText, rows: usize) -> Result<Tensor> {
        let pooled = pooled
            .filter(|pooled| pooled.dims() == [rows, shape.width])
            .ok_or_else(|| {
                Error::setting(format!(
                    "this UNet requires pooled text embeddings of width {}",
                    shape.width
                ))
            })?;
        let sizes: Vec<f32> = SDXL_SIZES
            .iter()
            .flat_map(|&s| time_features(s, shape.size_width))
            .collect();
        let sizes = self.tensor(sizes.repeat(rows), rows)?;
        Ok(Tensor::cat(&[&pooled.to_dtype(DType::F32)?, &sizes], 1)?)
    }

    fn tensor(&self, values: Vec<f32>, rows: usize) -> Result<Tensor> {
        let width = values.len() / rows;
        Ok(Tensor::from_vec(values, (rows, width), &self.device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-4)
    }

    #[test]
    fn time_features_equal_those_of_diffusers() {
        // diffusers.models.embeddings.get_timestep_embedding(
        //     torch.tensor([259]), 8, flip_sin_to_cos=True, downscale_freq_shift=0)
        assert!(close(
            &time_features(259.0, 8),
            &[
                0.180_401, 0.719_818, -0.851_691, 0.966_647, 0.983_593, 0.694_163, 0.524_044,
                0.256_114
            ]
        ));
    }

    #[test]
    fn guidance_features_equal_those_of_the_reference() {
        // With v = 1000 * w in f32: [sin(v f), cos(v f)], f = exp(-i ln(10000) / 3), w = 7
        assert!(close(
            &guidance_features(7.0, 8),
            &[
                0.506_885, -0.970_48, 0.586_653, 0.644_218, 0.862_013, -0.241_183, -0.809_838,
                0.764_842
            ]
        ));
        assert_eq!(guidance_features(0.0, 6), [0., 0., 0., 1., 1., 1.]);
    }
}
