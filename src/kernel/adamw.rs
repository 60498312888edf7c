//! AdamW steps (arXiv 1711.05101) in place: one pass for each moment and one for the
//! weights, without allocations.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

use super::op;

/// The parameters of a step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor of the gradient, for gradient clipping.
    pub shrink: f64,
    /// Bias corrections of the moments, `1 - beta^t`.
    pub missing: (f64, f64),
    /// Learning rate.
    pub rate: f64,
    /// Factor of the weight, `1 - rate * weight_decay`.
    pub left: f64,
}

/// Updates the moments `first` and `second` by the gradient, then the weight. All four
/// have the same shape and are contiguous, f32 and on a CPU.
pub fn adamw(
    [weight, first, second]: [&Tensor; 3],
    gradient: &Tensor,
    step: AdamWStep,
) -> Result<()> {
    let AdamWStep { betas, shrink, .. } = step;
    let of_gradient = |beta: f64, squared| Follow {
        beta: beta as f32,
        shrink: shrink as f32,
        squared,
    };
    first.inplace_op2(gradient, &of_gradient(betas.0, false))?;
    second.inplace_op2(gradient, &of_gradient(betas.1, true))?;
    weight.inplace_op3(first, second, &step)
}

/// Updates a moving average: `mean` becomes beta mean + (1 - beta) x. Both have the same
/// shape and are contiguous, f32 and on a CPU.
pub fn follow(mean: &Tensor, x: &Tensor, beta: f64) -> Result<()> {
    let follow = Follow {
        beta: beta as f32,
        shrink: 1.0,
        squared: false,
    };
    mean.inplace_op2(x, &follow)
}

/// A moving average of x times a factor, or of its square.
struct Follow {
    beta: f32,
    shrink: f32,
    squared: bool,
}

impl InplaceOp2 for Follow {
    fn name(&self) -> &'static str {
        "follow"
    }

    fn cpu_fwd(
        &self,
        mean: &mut CpuStorage,
        mean_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let (mean, x) = (values_mut(mean, mean_layout)?, op::values(x, x_layout)?);
        if mean.len() != x.len() {
            bail!("a moving average of {} values of {}", mean.len(), x.len());
        }
        let (beta, gain) = (self.beta, 1.0 - self.beta);
        for (mean, x) in mean.iter_mut().zip(x) {
            let x = x * self.shrink;
            let x = if self.squared { x * x } else { x };
            *mean = beta * *mean + gain * x;
        }
        Ok(())
    }
}

impl InplaceOp3 for AdamWStep {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let weight = values_mut(weight, weight_layout)?;
        let first = op::values(first, first_layout)?;
        let second = op::values(second, second_layout)?;
        if first.len() != weight.len() || second.len() != weight.len() {
            bail!("{} weights need equally many moments", weight.len());
        }
        let (missing_first, missing_second) = self.missing;
        let rate = self.rate as f32 / missing_first as f32;
        let missing = 1.0 / missing_second as f32;
        let (eps, left) = (self.eps as f32, self.left as f32);
        for ((weight, first), second) in weight.iter_mut().zip(first).zip(second) {
            let root = (second * missing).sqrt() + eps;
            *weight = *weight * left - rate * first / root;
        }
        Ok(())
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("a step requires contiguous f32 values"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// The formula of the paper in double precision.
    fn plain([w, m, v, g]: [f64; 4], step: AdamWStep) -> [f64; 3] {
        let (beta1, beta2) = step.betas;
        let g = g * step.shrink;
        let m = beta1 * m + (1.0 - beta1) * g;
        let v = beta2 * v + (1.0 - beta2) * g * g;
        let root = (v / step.missing.1).sqrt() + step.eps;
        let ahead = step.rate * m / step.missing.0 / root;
        [step.left * w - ahead, m, v]
    }

    #[test]
    fn a_step_is_that_of_the_formula() {
        let step = AdamWStep {
            betas: (0.9, 0.99),
            eps: 1e-8,
            shrink: 0.5,
            missing: (0.19, 0.0199),
            rate: 0.1,
            left: 0.999,
        };
        let numbers: Vec<[f32; 4]> = (0..37)
            .map(|i| [0.3, 0.7, 1.1, 1.9].map(|k| ((i as f32 + 1.0) * k).sin()))
            .collect();
        let column = |i: usize, of: fn(f32) -> f32| -> Tensor {
            let values: Vec<f32> = numbers.iter().map(|row| of(row[i])).collect();
            Tensor::new(values, &Device::Cpu).unwrap()
        };
        let (w, m, v) = (column(0, |x| x), column(1, |x| x), column(2, |x| x * x));
        adamw([&w, &m, &v], &column(3, |x| x), step).unwrap();
        let found = [w, m, v].map(|x| x.to_vec1::<f32>().unwrap());
        for (i, row) in numbers.iter().enumerate() {
            let [w, m, v, g] = row.map(f64::from);
            let expected = plain([w, m, v * v, g], step);
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(found[i]) - expected).abs() < 2e-6 * (1.0 + expected.abs()));
            }
        }
    }

    #[test]
    fn a_mean_follows_in_its_own_memory() {
        let mean = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let x = Tensor::new(&[5f32, -2.0], &Device::Cpu).unwrap();
        follow(&mean, &x, 0.75).unwrap();
        assert_eq!(mean.to_vec1::<f32>().unwrap(), [2.0, 1.0]);
        let other = Tensor::new(&[5f64, -2.0], &Device::Cpu).unwrap();
        assert!(follow(&mean, &other, 0.5).is_err(), "another type");
    }
}
