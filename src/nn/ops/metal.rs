//! Metal: candle's fused kernels where they fit, and its other operations for the rest.

use candle_core::{Result, Tensor};
use candle_nn::ops;

use super::{AttentionMode, Metal, Ops, composed};
use crate::nn::LayerNorm;

/// Widths of a head that candle's fused attention takes.
const WIDTHS: [usize; 8] = [32, 64, 72, 80, 96, 128, 256, 512];

/// The width of which it takes half types only.
const WIDEST: usize = 512;

impl Ops for Metal {
    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        if [x, &norm.weight, &norm.bias].iter().any(|x| x.track_op()) {
            return composed::layer_norm(x, norm);
        }
        // All arguments have x's type; statistics are in f32.
        let [weight, bias] = [&norm.weight, &norm.bias].map(|affine| affine.to_dtype(x.dtype()));
        ops::layer_norm(&x.contiguous()?, &weight?, &bias?, norm.eps as f32)
    }

    fn attention(&self, qkv: [&Tensor; 3], heads: usize, mode: AttentionMode) -> Result<Tensor> {
        let causal = mode == AttentionMode::Causal;
        if mode == AttentionMode::FirstRowsMaps || !fits(qkv, heads) {
            return composed::attention(qkv, heads, mode);
        }
        let [q, k, v] = qkv.map(|x| composed::split(x, heads));
        let (q, k, v) = (q?, k?, v?);
        let scale = (q.dim(3)? as f64).sqrt().recip() as f32;
        composed::join(&ops::sdpa(&q, &k, &v, None, causal, scale, 1.0)?)
    }
}

/// Whether the fused attention takes queries, keys and values.
fn fits([q, k, v]: [&Tensor; 3], heads: usize) -> bool {
    let here = q.device().is_metal() && [q, k, v].iter().all(|x| !x.track_op());
    let &[_, queries, c] = q.dims() else {
        return false;
    };
    here && v.dims().last() == Some(&c)
        && takes(queries, c / heads.max(1), q.dtype().size_in_bytes())
}

/// Whether it takes so many queries with heads of a width, of a type of so many bytes.
fn takes(queries: usize, width: usize, bytes: usize) -> bool {
    queries > 1 && WIDTHS.contains(&width) && (width < WIDEST || bytes < size_of::<f32>())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn waves(shape: &[usize], phase: f32) -> Tensor {
        let wave = |i: usize| (i as f32 * 0.7 + phase).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        let [a, b] = [a, b].map(|x| x.to_dtype(DType::F32).unwrap());
        let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        gap.to_scalar().unwrap()
    }

    /// candle has that kernel for CPUs, too.
    #[test]
    fn the_fused_layer_norm_is_the_composed_one() {
        let affine = [waves(&[40], 0.3), waves(&[40], 0.9)];
        let norm = LayerNorm::new(&Metal, affine, 1e-5).unwrap();
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            let x = waves(&[2, 7, 40], 0.1).to_dtype(dtype).unwrap();
            let (found, expected) = (
                Metal.layer_norm(&x, &norm).unwrap(),
                composed::layer_norm(&x, &norm).unwrap(),
            );
            assert_eq!(found.dtype(), dtype);
            assert!(gap(&found, &expected) < tolerance, "{dtype:?}");
        }
    }

    #[test]
    fn the_fused_attention_is_left_out_where_it_does_not_fit() {
        // SD1.5 has heads of 40, 80 and 160 channels, SDXL and the text encoders of 64.
        let halves = [40, 64, 80, 160].map(|width| takes(4096, width, 2));
        assert_eq!(halves, [false, true, true, false]);
        // An autoencoder's single head, in half types and in f32.
        assert_eq!([2, 4].map(|bytes| takes(4096, 512, bytes)), [true, false]);
        assert!(takes(77, 256, 4) && !takes(1, 64, 2));
        let [q, k, v] = [0.1, 0.5, 0.9].map(|phase| waves(&[2, 5, 64], phase));
        for mode in [AttentionMode::Full, AttentionMode::Causal] {
            let found = Metal.attention([&q, &k, &v], 1, mode).unwrap();
            let expected = composed::attention([&q, &k, &v], 1, mode).unwrap();
            assert_eq!(gap(&found, &expected), 0.0);
        }
    }
}
