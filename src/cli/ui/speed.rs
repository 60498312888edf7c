//! How fast this machine is, measured in a moment.

use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::Tensor;
use icd::nn::Placement;

/// How long is measured.
const MOMENT: Duration = Duration::from_millis(50);
/// The side of the matrices.
const SIDE: usize = 512;
/// What the networks reach of the speed of a product, over all their layers.
const REACHED: f64 = 0.6;

/// Floating-point operations per second of networks on this device, roughly: from products of
/// matrices in the type that they compute in.
pub(crate) fn flops_per_second(placement: &Placement) -> Result<f64> {
    let (device, dtype) = (&placement.device, placement.compute_dtype());
    let matrix = Tensor::ones((SIDE, SIDE), dtype, device)?;
    let multiply = || -> Result<()> {
        matrix.matmul(&matrix)?;
        Ok(device.synchronize()?)
    };
    multiply()?; // the first one also prepares
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < MOMENT {
        multiply()?;
        count += 1;
    }
    let flops = 2.0 * (SIDE as f64).powi(3) * f64::from(count);
    Ok(REACHED * flops / began.elapsed().as_secs_f64())
}
