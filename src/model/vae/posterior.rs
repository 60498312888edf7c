//! The encoder's output for a picture: a distribution of latents.

use candle_core::{Shape, Tensor};

use crate::error::{Error, Result};

/// The encoder's distribution of latents of a picture (`DiagonalGaussianDistribution`).
#[derive(Clone, Debug)]
pub struct Posterior {
    mean: Tensor,
    std: Tensor,
    scale: f64,
}

impl Posterior {
    /// The distribution with this unscaled mean and standard deviation (b, 4, h, w).
    pub(super) fn encoded(mean: Tensor, std: Tensor, scale: f64) -> Self {
        Self { mean, std, scale }
    }

    /// The distribution with this mean and standard deviation (b, 4, h, w), both scaled.
    pub fn of(mean: Tensor, std: Tensor) -> Result<Self> {
        match mean.shape() == std.shape() {
            true => Ok(Self {
                mean,
                std,
                scale: 1.0,
            }),
            false => Err(Error::setting(format!(
                "a mean of {:?} and a std of {:?} make no distribution",
                mean.dims(),
                std.dims()
            ))),
        }
    }

    /// The scaled mean and standard deviation (b, 4, h, w).
    pub fn parts(&self) -> Result<[Tensor; 2]> {
        Ok([(&self.mean * self.scale)?, (&self.std * self.scale)?])
    }

    /// Selects rows, in any order and with repetition.
    pub fn rows(&self, rows: &[usize]) -> Result<Self> {
        let rows: Vec<_> = rows.iter().map(|&row| row as u32).collect();
        let rows = Tensor::new(rows, self.mean.device())?;
        let pick = |x: &Tensor| x.index_select(&rows, 0);
        Ok(Self {
            mean: pick(&self.mean)?,
            std: pick(&self.std)?,
            scale: self.scale,
        })
    }

    /// The latent's shape (b, 4, h, w).
    pub fn shape(&self) -> &Shape {
        self.mean.shape()
    }

    /// The scaled mean (b, 4, h, w).
    pub fn mean(&self) -> Result<Tensor> {
        Ok((&self.mean * self.scale)?)
    }

    /// The Kullback-Leibler divergence from the standard normal distribution, averaged
    /// over all values (arXiv 1312.6114, appendix B).
    pub fn kl(&self) -> Result<Tensor> {
        let variance = self.std.sqr()?;
        let spread = ((self.mean.sqr()? + &variance)? - variance.log()?)?;
        Ok(((spread - 1.0)? * 0.5)?.mean_all()?)
    }

    /// The scaled sample (b, 4, h, w) for standard normal `noise` of that shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        Ok(((&self.mean + (&self.std * noise)?)? * self.scale)?)
    }
}
