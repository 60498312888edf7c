//! Group norm in two passes over each group, with statistics in f64: a group
//! of an autoencoder has a quarter of a million values, whose plain f32 sum
//! would be the largest rounding error of the whole network.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Normalises groups of channels of x (b, c, ..), f32, contiguous and on a
/// CPU, then scales and shifts each channel by `weight` and `bias` (c).
/// There is no backward pass.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, bias, &GroupNorm { groups, eps })
}

struct GroupNorm {
    groups: usize,
    eps: f64,
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = super::values(x, x_layout)?;
        let weight = super::values(weight, weight_layout)?;
        let bias = super::values(bias, bias_layout)?;
        let pixels = x_layout.dims().iter().skip(2).product::<usize>();
        let channels = weight.len() / self.groups;
        let mut y = vec![0f32; x.len()];
        let group = channels * pixels;
        y.par_chunks_mut(group)
            .zip(x.par_chunks(group))
            .enumerate()
            .for_each(|(i, (y, x))| {
                let (mean, inverse) = moments(x, self.eps);
                let first = i % self.groups * channels;
                let rows = y.chunks_mut(pixels).zip(x.chunks(pixels));
                for (channel, (y, x)) in rows.enumerate() {
                    let scale = weight[first + channel] * inverse;
                    let shift = bias[first + channel];
                    // The mean goes first: it may be much larger than the rest.
                    y.iter_mut()
                        .zip(x)
                        .for_each(|(y, x)| *y = (x - mean) * scale + shift);
                }
            });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}

/// The mean of the values and the inverse of their deviation.
fn moments(x: &[f32], eps: f64) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = sum(x, |v| v) / count;
    let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
    (mean as f32, (1.0 / (variance + eps).sqrt()) as f32)
}

/// The sum of `f` over the values, in eight lanes that a compiler can vectorise.
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|&v| f(f64::from(v))).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(f64::from(v));
        }
    }
    rest + lanes.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// The formula, one value at a time.
    fn plain(x: &[f32], (b, c, n): (usize, usize, usize), groups: usize, eps: f64) -> Vec<f32> {
        let group = c / groups * n;
        let normed = |i: usize| {
            let first = i / group * group;
            let of = &x[first..first + group];
            let mean = of.iter().map(|&v| f64::from(v)).sum::<f64>() / group as f64;
            let variance = of
                .iter()
                .map(|&v| (f64::from(v) - mean).powi(2))
                .sum::<f64>()
                / group as f64;
            let channel = (i / n % c) as f64;
            ((f64::from(x[i]) - mean) / (variance + eps).sqrt() * (1.0 + channel) + channel / 2.0)
                as f32
        };
        (0..b * c * n).map(normed).collect()
    }

    #[test]
    fn it_equals_the_formula_for_many_shapes() {
        for (b, c, n, groups) in [
            (1, 1, 1, 1),
            (1, 4, 1, 2),
            (2, 6, 7, 3),
            (3, 8, 33, 8),
            (1, 32, 100, 4),
        ] {
            let x: Vec<f32> = (0..b * c * n)
                .map(|i| (i as f32 * 0.37).sin() * 3.0 + 1.0)
                .collect();
            let device = Device::Cpu;
            let weight: Vec<f32> = (0..c).map(|i| 1.0 + i as f32).collect();
            let bias: Vec<f32> = (0..c).map(|i| i as f32 / 2.0).collect();
            let y = group_norm(
                &Tensor::from_vec(x.clone(), (b, c, n), &device).unwrap(),
                &Tensor::from_vec(weight, c, &device).unwrap(),
                &Tensor::from_vec(bias, c, &device).unwrap(),
                groups,
                1e-5,
            );
            let y = y.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = plain(&x, (b, c, n), groups, 1e-5);
            let worst = y
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs() / (1.0 + b.abs()))
                .fold(0., f32::max);
            assert!(worst < 2e-6, "{b}x{c}x{n} in {groups} groups: {worst}");
        }
    }
}
