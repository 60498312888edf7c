//! Scaled dot-product attention (arXiv 1706.03762).
//!
//! Queries (b, n, c), keys (b, m, c) and values (b, m, e) come as linear layers
//! make them: the heads lie side by side in the last axis.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops;

use super::on_cpu;
use crate::kernel::{self, profile};

/// Bytes of scores that may exist at once: small enough to stay a footnote
/// beside the weights, large enough to keep the matrix products efficient.
const SCORES_AT_ONCE: usize = 64 << 20;

/// The attention maps (b, heads, n, m); each row of keys sums to one.
pub fn attention_maps(q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
    match on_cpu(q) {
        true => kernel::attention_maps(&q.contiguous()?, &k.contiguous()?, heads),
        false => maps(&split(q, heads)?, &split(k, heads)?),
    }
}

/// What maps (b, heads, n, m) read out of the values: (b, n, e).
pub fn read_maps(maps: &Tensor, v: &Tensor) -> Result<Tensor> {
    match on_cpu(v) {
        true => kernel::read_maps(&maps.contiguous()?, &v.contiguous()?),
        false => join(&maps.matmul(&split(v, maps.dim(1)?)?)?),
    }
}

/// What the maps of q and k read out of the values: (b, n, e). The maps are
/// never materialised as a whole.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    if on_cpu(q) {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        let about = |_: &Tensor| attend_about(&q, &v, heads);
        return profile::of(about, || kernel::attend(&q, &k, &v, heads));
    }
    let [q, k, v] = [split(q, heads)?, split(k, heads)?, split(v, heads)?];
    join(&in_chunks(&q, &k, &v, queries_at_once(&q, &k)?)?)
}

/// The same where each query sees only the keys up to its own place.
pub fn attend_causally(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    if on_cpu(q) {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        return kernel::attend_causally(&q, &k, &v, heads);
    }
    let scores = scores(&split(q, heads)?, &split(k, heads)?)?;
    let maps = softmax(&scores.broadcast_add(&causal_mask(&scores)?)?)?;
    join(&maps.matmul(&split(v, heads)?)?)
}

/// What the maps of the first q and k of the batch read out of each values.
pub fn attend_through_first(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    if on_cpu(q) {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        return kernel::attend_through_first(&q, &k, &v, heads);
    }
    let first = |x: &Tensor| split(&x.narrow(0, 0, 1)?, heads);
    let (q, k, v) = (first(q)?, first(k)?, split(v, heads)?);
    let (b, heads, m, d) = v.dims4()?;
    // The rows lie side by side in the last axis, so the maps are computed once.
    let side_by_side = v.permute((1, 2, 0, 3))?.reshape((1, heads, m, b * d))?;
    let y = in_chunks(&q, &k, &side_by_side, queries_at_once(&q, &k)?)?; // (1, heads, n, b * d)
    let y = y.reshape((heads, (), b, d))?.permute((2, 1, 0, 3))?; // (b, n, heads, d)
    y.flatten_from(2)
}

/// The name and the floating point operations of an attention.
fn attend_about(q: &Tensor, v: &Tensor, heads: usize) -> (String, f64) {
    let (n, m) = (q.dims()[1], v.dims()[1]);
    let flops = 2.0 * (m * (q.elem_count() + n * v.elem_count() / m)) as f64;
    (format!("attention of {heads} x {n} to {m}"), flops)
}

/// (b, n, c) to (b, heads, n, c / heads).
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c) = x.dims3()?;
    x.reshape((b, n, heads, c / heads))?
        .transpose(1, 2)?
        .contiguous()
}

/// (b, heads, n, d) to (b, n, heads * d).
fn join(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(2)
}

fn in_chunks(q: &Tensor, k: &Tensor, v: &Tensor, chunk: usize) -> Result<Tensor> {
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

/// Over the keys, computed in f32 whatever the type of the scores.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let wide = scores.to_dtype(DType::F32)?;
    let maps = match scores.track_op() {
        true => ops::softmax(&wide, D::Minus1)?,
        false => ops::softmax_last_dim(&wide.contiguous()?)?, // no gradient flows through it
    };
    maps.to_dtype(scores.dtype())
}

fn scores(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(3)? as f64).sqrt();
    (q * scale)?.matmul(&k.t()?) // (b, heads, n, m)
}

/// Minus infinity (n, n) where a query would see a later key.
fn causal_mask(scores: &Tensor) -> Result<Tensor> {
    let n = scores.dim(D::Minus1)?;
    let hide = |i: usize| match i % n > i / n {
        true => f32::NEG_INFINITY,
        false => 0.0,
    };
    let mask: Vec<f32> = (0..n * n).map(hide).collect();
    Tensor::from_vec(mask, (n, n), scores.device())?.to_dtype(scores.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn waves(shape: (usize, usize, usize), phase: f32) -> Tensor {
        let count = shape.0 * shape.1 * shape.2;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7 + phase).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        gap.to_scalar().unwrap()
    }

    #[test]
    fn chunks_of_any_size_and_the_kernel_give_the_whole() {
        let (q, k, v) = (
            waves((2, 11, 12), 0.),
            waves((2, 7, 12), 1.),
            waves((2, 7, 15), 2.),
        );
        let whole = read_maps(&attention_maps(&q, &k, 3).unwrap(), &v).unwrap();
        assert!(gap(&attend(&q, &k, &v, 3).unwrap(), &whole) < 1e-6);
        let [q, k, v] = [q, k, v].map(|x| split(&x, 3).unwrap());
        for chunk in [1, 3, 10, 11, 50] {
            let parts = join(&in_chunks(&q, &k, &v, chunk).unwrap()).unwrap();
            assert!(gap(&parts, &whole) < 1e-6, "{chunk} queries at once");
        }
    }

    #[test]
    fn reading_through_the_first_row_equals_replacing_every_map_by_its() {
        let (q, k, v) = (
            waves((3, 5, 8), 0.),
            waves((3, 6, 8), 1.),
            waves((3, 6, 8), 2.),
        );
        let first = attention_maps(&q, &k, 2).unwrap().narrow(0, 0, 1).unwrap();
        let maps = first.broadcast_as((3, 2, 5, 6)).unwrap();
        let expected = read_maps(&maps, &v).unwrap();
        assert!(gap(&attend_through_first(&q, &k, &v, 2).unwrap(), &expected) < 1e-6);
    }

    #[test]
    fn a_causal_query_sees_nothing_behind_it() {
        let (q, k, v) = (
            waves((2, 6, 8), 0.),
            waves((2, 6, 8), 1.),
            waves((2, 6, 8), 2.),
        );
        let whole = attend_causally(&q, &k, &v, 2).unwrap();
        for n in 1..=6 {
            let up_to = |x: &Tensor| x.narrow(1, 0, n).unwrap();
            let seen = attend(&up_to(&q), &up_to(&k), &up_to(&v), 2).unwrap();
            let last = |x: &Tensor| x.narrow(1, n - 1, 1).unwrap();
            assert!(gap(&last(&seen), &last(&whole)) < 1e-6);
        }
    }

    #[test]
    fn what_other_devices_compute_in_half_precision_is_almost_the_same() {
        type Attend = fn(&Tensor, &Tensor, &Tensor, usize) -> Result<Tensor>;
        let through_maps: Attend = |q, k, v, heads| read_maps(&attention_maps(q, k, heads)?, v);
        let (q, k, v) = (
            waves((2, 6, 8), 0.),
            waves((2, 6, 8), 1.),
            waves((2, 6, 8), 2.),
        );
        let [q, k] = [q, k].map(|x| (x * 6.0).unwrap()); // maps with clear favourites
        let half = |x: &Tensor| x.to_dtype(DType::F16).unwrap();
        for attend in [
            attend as Attend,
            attend_causally,
            attend_through_first,
            through_maps,
        ] {
            let exact = attend(&q, &k, &v, 2).unwrap();
            let found = attend(&half(&q), &half(&k), &half(&v), 2).unwrap();
            assert_eq!(found.dtype(), DType::F16);
            assert!(gap(&found.to_dtype(DType::F32).unwrap(), &exact) < 2e-2);
        }
    }
}
