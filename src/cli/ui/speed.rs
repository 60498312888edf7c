//! How fast this machine is, measured in a moment.

use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    kernel::Arithmetic,
    nn::{Linear, Placement},
};

/// How long is measured.
const MOMENT: Duration = Duration::from_millis(50);
/// The side of the matrices.
const SIDE: usize = 512;
/// What the networks reach of the speed of a product, over all their layers.
const REACHED: f64 = 0.6;
/// The same where products round to bf16: what is computed in f32 takes a larger part.
const OF_BF16: f64 = 0.4;

/// Floating-point operations per second of networks on this device, roughly: from products of
/// matrices in the type that they compute in.
pub(crate) fn flops_per_second(placement: &Placement) -> Result<f64> {
    let (device, dtype) = (&placement.device, placement.compute_dtype());
    let matrix = Tensor::ones((SIDE, SIDE), dtype, device)?;
    let (layer, reached) = match placement.arithmetic() {
        Arithmetic::F32 => (None, REACHED),
        Arithmetic::Bf16(_) => (
            Some(Linear::new(placement.ops(), matrix.clone(), None)?),
            OF_BF16,
        ),
    };
    let multiply = || -> Result<()> {
        match &layer {
            Some(layer) => layer.forward(&matrix)?,
            None => matrix.matmul(&matrix)?,
        };
        Ok(device.synchronize()?)
    };
    multiply()?; // the first one also prepares
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < MOMENT {
        multiply()?;
        count += 1;
    }
    let flops = 2.0 * (SIDE as f64).powi(3) * f64::from(count);
    Ok(reached * flops / began.elapsed().as_secs_f64())
}
