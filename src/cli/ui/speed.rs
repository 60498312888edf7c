//! How fast this machine is, measured in a moment.

use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    kernel::Arithmetic,
    nn::{Backend, Linear, Placement},
};

/// How long is measured.
const MOMENT: Duration = Duration::from_millis(50);
/// Rows of the layer's input, and its width: those of a UNet's middle levels.
const ROWS: usize = 1024;
const WIDTH: usize = 640;

/// Floating-point operations per second of networks on this device, roughly: from a linear
/// layer in the arithmetic that they compute in.
pub(crate) fn flops_per_second(placement: &Placement) -> Result<f64> {
    let device = &placement.device;
    let weight = Tensor::ones((WIDTH, WIDTH), placement.dtype, device)?;
    let layer = Linear::new(placement.ops(), weight, None)?;
    let x = Tensor::ones((ROWS, WIDTH), placement.compute_dtype(), device)?;
    let evaluate = || -> Result<()> {
        layer.forward(&x)?;
        Ok(device.synchronize()?)
    };
    evaluate()?; // the first one also prepares
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < MOMENT {
        evaluate()?;
        count += 1;
    }
    let flops = 2.0 * (ROWS * WIDTH * WIDTH) as f64 * f64::from(count);
    Ok(share(placement) * flops / began.elapsed().as_secs_f64())
}

/// What whole networks reach of the layer's speed: measured with the UNet of Stable Diffusion
/// 1.5 on an Intel Xeon (family 6, model 207), and with candle's operations on a GPU. In f32
/// Winograd's convolutions need fewer operations than are counted.
fn share(placement: &Placement) -> f64 {
    match (placement.backend, placement.arithmetic()) {
        (Backend::Packed, Arithmetic::F32) => 1.1,
        (Backend::Packed, Arithmetic::Bf16(_)) => 0.85,
        _ => 0.6,
    }
}
