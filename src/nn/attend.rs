//! Scaled dot-product attention (arXiv 1706.03762).

use candle_core::{DType, Result, Tensor};

use super::softmax;

/// Bytes of scores that may exist at once: small enough to stay a footnote
/// beside the weights, large enough to keep the matrix products efficient.
const SCORES_AT_ONCE: usize = 64 << 20;

/// The attention maps (b, heads, queries, keys) of q (b, heads, queries, d)
/// and k (b, heads, keys, d); each row of keys sums to one.
pub fn attention_maps(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    softmax(&scores(q, k)?)
}

/// What the maps of q and k read out of v (b, heads, keys, e):
/// (b, heads, queries, e). The maps exist for a few queries at a time only.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    attend_in_chunks(q, k, v, queries_at_once(q, k)?)
}

fn attend_in_chunks(q: &Tensor, k: &Tensor, v: &Tensor, chunk: usize) -> Result<Tensor> {
    let queries = q.dim(2)?;
    if queries <= chunk {
        return attention_maps(q, k)?.matmul(v);
    }
    let parts: Result<Vec<_>> = (0..queries)
        .step_by(chunk)
        .map(|start| {
            let q = q
                .narrow(2, start, chunk.min(queries - start))?
                .contiguous()?;
            attention_maps(&q, k)?.matmul(v)
        })
        .collect();
    Tensor::cat(&parts?, 2)
}

fn queries_at_once(q: &Tensor, k: &Tensor) -> Result<usize> {
    let (b, heads, _, _) = q.dims4()?;
    let per_query = b * heads * k.dim(2)? * DType::F32.size_in_bytes();
    Ok((SCORES_AT_ONCE / per_query.max(1)).max(1))
}

fn scores(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(3)? as f64).sqrt();
    (q * scale)?.matmul(&k.t()?) // (b, heads, queries, keys)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn waves(shape: (usize, usize, usize, usize), phase: f32) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7 + phase).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn chunks_of_any_size_give_the_whole() {
        let (q, k, v) = (
            waves((2, 3, 11, 4), 0.),
            waves((2, 3, 7, 4), 1.),
            waves((2, 3, 7, 5), 2.),
        );
        let whole = attention_maps(&q, &k).unwrap().matmul(&v).unwrap();
        for chunk in [1, 3, 10, 11, 50] {
            let parts = attend_in_chunks(&q, &k, &v, chunk).unwrap();
            let gap = (parts - &whole).unwrap().abs().unwrap().max_all().unwrap();
            assert!(
                gap.to_scalar::<f32>().unwrap() < 1e-6,
                "{chunk} queries at once"
            );
        }
    }

    #[test]
    fn maps_sum_to_one_over_the_keys() {
        let maps = attention_maps(&waves((1, 2, 3, 4), 0.), &waves((1, 2, 6, 4), 1.)).unwrap();
        let sums = maps
            .sum(3)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{sums:?}");
    }
}
