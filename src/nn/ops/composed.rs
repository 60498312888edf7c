//! All operations, composed of candle's, on every device, with gradients.

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops;

use super::{AttentionMode, ConvWeight, LinearWeight};
use crate::{
    kernel::{Activation, ConvEpilogue, ConvGeometry, Epilogue, GroupSums, nearest},
    nn::{GroupNorm, LayerNorm},
};

/// Maximum bytes of attention scores at once: small compared to the weights, large enough
/// for efficient matrix products.
const SCORES_AT_ONCE: usize = 64 << 20;

/// Maximum bytes of the patches of a convolution at once: candle allocates all patches of
/// its input, nine times a picture for a 3x3 convolution.
const PATCHES_AT_ONCE: usize = 1 << 30;

pub(super) fn linear(x: &Tensor, weight: &LinearWeight, epilogue: Epilogue) -> Result<Tensor> {
    let LinearWeight::Plain(weight) = weight else {
        bail!("packed weights belong to the CPU kernels");
    };
    let (outputs, inputs) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let weight = weight.to_dtype(x.dtype())?.t()?;
    let y = x.contiguous()?.reshape(((), inputs))?.matmul(&weight)?;
    around(y.reshape(shape)?, epilogue.bias, None, epilogue.residual) // (.., outputs)
}

pub(super) fn conv2d(
    x: &Tensor,
    weight: &ConvWeight,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
) -> Result<Tensor> {
    let weight = match weight {
        ConvWeight::Plain(weight) => weight.clone(),
        ConvWeight::ChannelsLast(weight) => channels_first(weight, x.dim(D::Minus1)?)?,
        ConvWeight::Packed(_) => bail!("packed weights belong to the CPU kernels"),
    };
    let weight = weight.to_dtype(x.dtype())?;
    let convolve = |x: &Tensor| convolved(&x.contiguous()?, &weight, geometry, PATCHES_AT_ONCE);
    let y = match epilogue.upsample {
        Some((height, width)) => convolve(&upsample_nearest(x, height, width)?)?,
        None => convolve(x)?,
    };
    around(y, epilogue.bias, epilogue.shift, epilogue.residual)
}

/// A weight (outputs, k, k, inputs and more) as (outputs, inputs, k, k).
fn channels_first(weight: &Tensor, inputs: usize) -> Result<Tensor> {
    let weight = weight.narrow(3, 0, inputs)?;
    weight.permute((0, 3, 1, 2))?.contiguous()
}

/// Adds the tensors of an epilogue to the output y (b, .., outputs) of a product.
pub(super) fn around(
    mut y: Tensor,
    bias: Option<&Tensor>,
    shift: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.to_dtype(y.dtype())?)?;
    }
    if let Some(shift) = shift {
        y = y.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?)?; // (b, 1, 1, outputs)
    }
    match residual {
        Some(residual) => y + residual,
        None => Ok(y),
    }
}

/// A convolution with at most `at_once` bytes of patches at once.
pub(super) fn convolved(
    x: &Tensor,
    weight: &Tensor,
    geometry: ConvGeometry,
    at_once: usize,
) -> Result<Tensor> {
    if geometry == ConvGeometry::same(1) {
        return by_pixel(x, weight);
    }
    let x = x.permute((0, 3, 1, 2))?.contiguous()?; // (b, c, h, w)
    let (height, width) = (geometry.output(x.dim(2)?), geometry.output(x.dim(3)?));
    let rows = rows_at_once(&x, geometry, at_once)?;
    let inputs = |outputs| (outputs - 1) * geometry.stride + geometry.side;
    let y = if rows >= height && geometry == ConvGeometry::same(geometry.side) {
        x.conv2d(weight, geometry.before, geometry.stride, 1, 1)?
    } else {
        let padded = x.pad_with_zeros(2, geometry.before, geometry.after)?;
        let padded = padded.pad_with_zeros(3, geometry.before, geometry.after)?;
        // Without surplus columns: candle's gradient has one output padding for both axes.
        let padded = padded.narrow(3, 0, inputs(width))?;
        let strip = |top: usize| {
            let strip = padded.narrow(2, top * geometry.stride, inputs(rows.min(height - top)))?;
            strip.contiguous()?.conv2d(weight, 0, geometry.stride, 1, 1)
        };
        let strips: Result<Vec<_>> = (0..height).step_by(rows).map(strip).collect();
        Tensor::cat(&strips?, 2)?
    };
    y.permute((0, 2, 3, 1))?.contiguous() // (b, h, w, c)
}

/// A 1x1 convolution: one product over all pixels.
fn by_pixel(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let weight = weight.flatten_from(1)?; // (outputs, c)
    let y = x.reshape(((), c))?.matmul(&weight.t()?)?;
    y.reshape((b, h, w, ()))
}

/// Number of output rows whose patches of x (b, c, h, w) fit into `bytes`.
fn rows_at_once(x: &Tensor, geometry: ConvGeometry, bytes: usize) -> Result<usize> {
    let (b, c, _, w) = x.dims4()?;
    let values = b * geometry.output(w) * c * geometry.side * geometry.side;
    Ok((bytes / (values * x.dtype().size_in_bytes()).max(1)).max(1))
}

/// Nearest-neighbour upsampling of (b, h, w, c) to a height and width, as PyTorch's
/// `interpolate`.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if (height, width) == (2 * h, 2 * w) {
        let twice = x.reshape((b, h, 1, w, 1, c))?;
        let twice = twice.broadcast_as((b, h, 2, w, 2, c))?;
        return twice.reshape((b, height, width, c));
    }
    let pick = |from, to| {
        let rows: Vec<_> = nearest(from, to).into_iter().map(|i| i as u32).collect();
        Tensor::new(rows, x.device())
    };
    x.index_select(&pick(h, height)?, 1)?
        .index_select(&pick(w, width)?, 2)
}

pub(super) fn group_norm(x: &Tensor, norm: &GroupNorm) -> Result<Tensor> {
    let grouped = grouped(x, norm)?;
    let mean = grouped.mean_keepdim((1, 3))?;
    let centred = grouped.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let y = centred.broadcast_div(&(variance + norm.eps)?.sqrt()?)?;
    scaled(&y, x, [&norm.weight, &norm.bias])
}

pub(super) fn group_sums(x: &Tensor, norm: &GroupNorm) -> Result<GroupSums> {
    let grouped = grouped(x, norm)?;
    let count = grouped.dim(1)? * grouped.dim(3)?;
    let mean = grouped.mean_keepdim((1, 3))?;
    let squares = grouped.broadcast_sub(&mean)?.sqr()?.mean_keepdim((1, 3))?;
    let [mean, squares] = [mean, squares].map(|x| x.flatten_all()?.to_vec1::<f32>());
    let sums = mean?.into_iter().zip(squares?).map(|(mean, square)| {
        let [mean, square] = [mean, square].map(f64::from);
        [mean, square + mean * mean].map(|mean| mean * count as f64)
    });
    Ok(GroupSums::new(count, norm.groups, sums.collect()))
}

pub(super) fn group_norm_by(sums: &GroupSums, x: &Tensor, norm: &GroupNorm) -> Result<Tensor> {
    let moments = sums.moments(norm.eps);
    let by_group = |values: Vec<f32>| {
        Tensor::from_vec(values, (sums.pictures(), 1, norm.groups, 1), x.device())
    };
    let mean = by_group(moments.iter().map(|of| of.mean as f32).collect())?;
    let inverse = by_group(moments.iter().map(|of| of.inverse as f32).collect())?;
    let y = grouped(x, norm)?.broadcast_sub(&mean)?;
    scaled(&y.broadcast_mul(&inverse)?, x, [&norm.weight, &norm.bias])
}

/// x (b, .., c) in f32, split into groups: (b, n, groups, c / groups).
fn grouped(x: &Tensor, norm: &GroupNorm) -> Result<Tensor> {
    let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
    let x = x.to_dtype(DType::F32)?;
    x.reshape((b, (), norm.groups, c / norm.groups))
}

pub(super) fn layer_norm(x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    let y = x.to_dtype(DType::F32)?;
    let centred = y.broadcast_sub(&y.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let y = centred.broadcast_div(&(variance + norm.eps)?.sqrt()?)?;
    scaled(&y, x, [&norm.weight, &norm.bias])
}

/// Normalised values in the shape and type of x, scaled and shifted.
fn scaled(y: &Tensor, x: &Tensor, [weight, bias]: [&Tensor; 2]) -> Result<Tensor> {
    y.reshape(x.shape())?
        .broadcast_mul(weight)?
        .broadcast_add(bias)?
        .to_dtype(x.dtype())
}

pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    mode: AttentionMode,
) -> Result<Tensor> {
    match mode {
        AttentionMode::Full => {
            let [q, k, v] = [split(q, heads)?, split(k, heads)?, split(v, heads)?];
            join(&in_chunks(&q, &k, &v, queries_at_once(&q, &k)?)?)
        }
        AttentionMode::Causal => {
            let scores = scores(&split(q, heads)?, &split(k, heads)?)?;
            let maps = softmax(&scores.broadcast_add(&causal_mask(&scores)?)?)?;
            join(&maps.matmul(&split(v, heads)?)?)
        }
        AttentionMode::FirstRowsMaps => through_first([q, k, v], heads),
    }
}

fn through_first([q, k, v]: [&Tensor; 3], heads: usize) -> Result<Tensor> {
    let first = |x: &Tensor| split(&x.narrow(0, 0, 1)?, heads);
    let (q, k, v) = (first(q)?, first(k)?, split(v, heads)?);
    let (b, heads, m, d) = v.dims4()?;
    // With the rows concatenated in the last axis, the maps are computed once.
    let v = v.permute((1, 2, 0, 3))?.reshape((1, heads, m, b * d))?;
    let y = in_chunks(&q, &k, &v, queries_at_once(&q, &k)?)?; // (1, heads, n, b * d)
    let y = y.reshape((heads, (), b, d))?.permute((2, 1, 0, 3))?; // (b, n, heads, d)
    y.flatten_from(2)
}

pub(super) fn attention_maps(q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
    maps(&split(q, heads)?, &split(k, heads)?)
}

pub(super) fn read_maps(maps: &Tensor, v: &Tensor) -> Result<Tensor> {
    join(&maps.matmul(&split(v, maps.dim(1)?)?)?)
}

/// (b, n, c) to (b, heads, n, c / heads).
pub(super) fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c) = x.dims3()?;
    x.reshape((b, n, heads, c / heads))?
        .transpose(1, 2)?
        .contiguous()
}

/// (b, heads, n, d) to (b, n, heads * d).
pub(super) fn join(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(2)
}

/// Attention of `chunk` queries at once.
pub(super) fn in_chunks(q: &Tensor, k: &Tensor, v: &Tensor, chunk: usize) -> Result<Tensor> {
    let queries = q.dim(2)?;
    if queries <= chunk {
        return maps(q, k)?.matmul(v);
    }
    let part = |start| {
        let count = chunk.min(queries - start);
        maps(&q.narrow(2, start, count)?.contiguous()?, k)?.matmul(v)
    };
    let parts: Result<Vec<_>> = (0..queries).step_by(chunk).map(part).collect();
    Tensor::cat(&parts?, 2)
}

fn queries_at_once(q: &Tensor, k: &Tensor) -> Result<usize> {
    let (b, heads, _, _) = q.dims4()?;
    let per_query = b * heads * k.dim(2)? * DType::F32.size_in_bytes();
    Ok((SCORES_AT_ONCE / per_query.max(1)).max(1))
}

fn maps(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    softmax(&scores(q, k)?)
}

/// Over the keys, computed in f32 for scores of any type.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let wide = scores.to_dtype(DType::F32)?;
    let maps = match scores.track_op() {
        true => ops::softmax(&wide, D::Minus1)?,
        false => ops::softmax_last_dim(&wide.contiguous()?)?, // does not support gradients
    };
    maps.to_dtype(scores.dtype())
}

fn scores(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(3)? as f64).sqrt();
    (q * scale)?.matmul(&k.t()?) // (b, heads, n, m)
}

/// Minus infinity (n, n) for keys later than the query.
fn causal_mask(scores: &Tensor) -> Result<Tensor> {
    let n = scores.dim(D::Minus1)?;
    let hide = |i: usize| match i % n > i / n {
        true => f32::NEG_INFINITY,
        false => 0.0,
    };
    let mask: Vec<f32> = (0..n * n).map(hide).collect();
    Tensor::from_vec(mask, (n, n), scores.device())?.to_dtype(scores.dtype())
}

pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::QuickGelu => x * ops::sigmoid(&(x * 1.702)?)?,
    }
}

pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * halves[1].gelu_erf()?
}

pub(super) fn concat(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[a, b], D::Minus1)
}
