//! Group and layer norm: `norm.cu`.

#![expect(unsafe_code, reason = "launches on a GPU")]

use candle_core::{D, DType, Result, Tensor};

use super::{
    gpu::{Argument, Gpu, Kernel, Module},
    operand::{aligned, suffix, takes},
    slices::{Division, Size},
};
use crate::kernel::Activation;

/// Threads of a block that normalises a whole group.
const WHOLE: u32 = 512;

/// Threads of a block that has a slice of a picture.
const SLICE: u32 = 256;

/// Threads of a warp.
const WARP: usize = 32;

/// Most rows of a layer norm in a block, a warp for each.
const ROWS: usize = 8;

/// Normalises groups of channels of each picture of x (b, .., c), then scales and shifts
/// each channel by `weight` and `bias` (c) in f32, and applies no activation or SiLU. `None`
/// where the kernels do not take the tensors.
pub fn group_norm(
    x: &Tensor,
    affine: [&Tensor; 2],
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Option<Tensor>> {
    let silu = match activation {
        Activation::Identity => 0,
        Activation::Silu => 1,
        Activation::Gelu | Activation::QuickGelu => return Ok(None),
    };
    let Some(norm) = Norm::of(x, affine, eps)? else {
        return Ok(None);
    };
    let (pictures, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Ok(None);
    }
    let size = Size {
        pictures,
        pixels: x.elem_count() / (pictures * channels),
        channels,
        groups,
        bytes: x.dtype().size_in_bytes(),
    };
    let silu = Argument::Int(silu);
    let y = match size.divide(norm.gpu.multiprocessors()) {
        Division::Whole { cache } => norm.whole(size, cache, silu),
        Division::Slices { span, slice } => norm.sliced(size, [span, slice], silu),
    };
    y.map(Some)
}

/// Normalises the last axis of x (.., c), then scales and shifts it by `weight` and `bias`
/// (c) in f32. `None` where the kernels do not take the tensors.
pub fn layer_norm(x: &Tensor, affine: [&Tensor; 2], eps: f64) -> Result<Option<Tensor>> {
    match Norm::of(x, affine, eps)? {
        Some(norm) => norm.rows().map(Some),
        None => Ok(None),
    }
}

/// The arguments of a norm.
struct Norm<'a> {
    gpu: std::sync::Arc<Gpu>,
    x: Tensor,
    /// Scale and shift.
    affine: [&'a Tensor; 2],
    eps: Argument,
    suffix: &'static str,
}

impl<'a> Norm<'a> {
    /// Checks that the kernels take the tensors.
    fn of(x: &Tensor, affine: [&'a Tensor; 2], eps: f64) -> Result<Option<Self>> {
        let (Some(suffix), Some(&channels)) = (suffix(x.dtype()), x.dims().last()) else {
            return Ok(None);
        };
        let x = aligned(x)?;
        let fits = affine.iter().all(|of| of.dims() == [channels])
            && takes(x.dtype(), [Some(&x)])
            && takes(DType::F32, affine.map(Some));
        if !fits {
            return Ok(None);
        }
        Ok(Gpu::of(x.device())?.map(|gpu| Self {
            gpu,
            x,
            affine,
            eps: Argument::Float(eps as f32),
            suffix,
        }))
    }

    fn kernel(&self, name: &str, threads: u32, shared: usize) -> Kernel {
        Kernel {
            module: Module::Norm,
            name: format!("{name}_{}", self.suffix),
            threads,
            shared: shared as u32,
        }
    }

    /// A group norm by one launch.
    fn whole(&self, size: Size, cache: usize, silu: Argument) -> Result<Tensor> {
        let (gpu, x, [weight, bias]) = (&self.gpu, &self.x, self.affine);
        let kernel = self.kernel("group_norm_whole", WHOLE, cache);
        let grid = [size.groups, size.pictures, 1];
        let sizes = [size.pixels, size.channels, size.groups].map(Argument::int);
        let [pixels, channels, groups] = sizes;
        let cached = Argument::Int(i32::from(cache > 0));
        gpu.filled(x.shape(), x.dtype(), |y| {
            gpu.with([Some(x), Some(weight), Some(bias)], |[x, weight, bias]| {
                let arguments = [
                    x, weight, bias, y, pixels, channels, groups, self.eps, silu, cached,
                ];
                // SAFETY: group_norm_whole_T(x, weight, bias, y, pixels, channels, groups, eps,
                // silu, cached), x and y (b, pixels, channels), weight and bias (channels).
                unsafe { gpu.launch(&kernel, grid, &arguments) }
            })
        })
    }

    /// A group norm by two launches.
    fn sliced(&self, size: Size, [span, slice]: [usize; 2], silu: Argument) -> Result<Tensor> {
        let (gpu, x, [weight, bias]) = (&self.gpu, &self.x, self.affine);
        let sums = self.kernel("group_norm_sums", SLICE, 0);
        let apply = self.kernel("group_norm_apply", SLICE, 0);
        let slices = size.pixels.div_ceil(slice);
        let grid = [slices, size.channels / span, size.pictures];
        let sizes = [size.pixels, size.channels, size.groups, span, slice].map(Argument::int);
        let scratch = size.pictures * size.groups * slices * 2;
        gpu.filled(x.shape(), x.dtype(), |y| {
            gpu.with([Some(x), Some(weight), Some(bias)], |[x, weight, bias]| {
                gpu.with_scratch(scratch, |moments| {
                    let summing = [&[x, moments], &sizes[..]].concat();
                    let before = [x, moments, weight, bias, y];
                    let applying = [&before, &sizes[..], &[self.eps, silu]].concat();
                    // SAFETY: group_norm_sums_T(x, sums, pixels, channels, groups, span, slice)
                    // and group_norm_apply_T(x, sums, weight, bias, y, pixels, channels, groups,
                    // span, slice, eps, silu), with sums (b, groups, slices, 2).
                    unsafe {
                        gpu.launch(&sums, grid, &summing)?;
                        gpu.launch(&apply, grid, &applying)
                    }
                })
            })
        })
    }

    /// A layer norm.
    fn rows(&self) -> Result<Tensor> {
        let (gpu, x, [weight, bias]) = (&self.gpu, &self.x, self.affine);
        let channels = weight.elem_count();
        let rows = x.elem_count() / channels;
        let each = (rows / (2 * gpu.multiprocessors())).clamp(1, ROWS); // rows of a block
        let kernel = self.kernel("layer_norm", (each * WARP) as u32, 0);
        let grid = [rows.div_ceil(each), 1, 1];
        let [rows, channels] = [rows, channels].map(Argument::int);
        gpu.filled(x.shape(), x.dtype(), |y| {
            gpu.with([Some(x), Some(weight), Some(bias)], |[x, weight, bias]| {
                let arguments = [x, weight, bias, y, rows, channels, self.eps];
                // SAFETY: layer_norm_T(x, weight, bias, y, rows, channels, eps), x and y (rows,
                // channels), weight and bias (channels).
                unsafe { gpu.launch(&kernel, grid, &arguments) }
            })
        })
    }
}
