//! Adam (arXiv 1412.6980) on one tensor, on any device.

use candle_core::Tensor;

use crate::error::Result;

/// The decay rates of the moments, and what is added to the root of the second: PyTorch's.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// The moments of a tensor.
pub(super) struct Adam {
    first: Tensor,
    second: Tensor,
    steps: i32,
    rate: f64,
}

impl Adam {
    /// For a tensor of the shape of `x`, at a learning rate.
    pub(super) fn new(x: &Tensor, rate: f64) -> Result<Self> {
        Ok(Self {
            first: x.zeros_like()?,
            second: x.zeros_like()?,
            steps: 0,
            rate,
        })
    }

    /// The tensor `x` after a step along its gradient.
    pub(super) fn stepped(&mut self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        self.steps += 1;
        self.first = followed(&self.first, gradient, BETAS.0)?;
        self.second = followed(&self.second, &gradient.sqr()?, BETAS.1)?;
        let missing = (
            1.0 - BETAS.0.powi(self.steps),
            1.0 - BETAS.1.powi(self.steps),
        );
        let root = ((&self.second / missing.1)?.sqrt()? + EPS)?;
        let step = ((&self.first / root)? * (self.rate / missing.0))?;
        Ok((x - step)?)
    }
}

/// beta old + (1 - beta) new.
fn followed(old: &Tensor, new: &Tensor, beta: f64) -> Result<Tensor> {
    Ok(((old * beta)? + (new * (1.0 - beta))?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn steps_are_those_of_pytorch() {
        // torch.optim.Adam([w], lr=0.1) on sum(k w^2)
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let (mut w, k) = (tensor(&[1.0, -2.0, 3.0]), tensor(&[1.0, 0.5, 2.0]));
        let mut adam = Adam::new(&w, 0.1).unwrap();
        for _ in 0..5 {
            let gradient = ((&w * 2.0).unwrap() * &k).unwrap();
            w = adam.stepped(&w, &gradient).unwrap();
        }
        let expected = [0.507_964, -1.502_956, 2.501_78];
        let found: Vec<f32> = w.to_vec1().unwrap();
        let close = |(x, y): (&f32, f32)| (x - y).abs() < 2e-6;
        assert!(found.iter().zip(expected).all(close), "{found:?}");
    }
}
