//! Complete attention maps, for controls that read or rewrite them.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{Sizes, shares, untracked};
use crate::kernel::{
    gemm::{Matrix, multiply, packed::Packed},
    op,
    softmax::normalise,
};

/// Maximum number of queries per task.
const QUERIES: usize = 192;

/// Scores per task, which remain in the L2 cache until the softmax.
const SCORES: usize = 1 << 17;

/// softmax(q k^T / sqrt(d)) of queries (b, n, heads * d) and keys
/// (b, m, heads * d): (b, heads, n, m). Not differentiable: tracked arguments are an
/// error.
pub fn attention_maps(q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
    let sizes = Sizes::of([q, k, k], heads)?;
    untracked("an attention map", &[q, k])?;
    let Sizes { b, n, m, .. } = sizes;
    let mut out = vec![0f32; b * heads * n * m];
    op::with([q, k], |[q, k]| {
        fill_maps(q, &packed_keys(k, sizes), sizes, &mut out);
        op::tensor(out, (b, heads, n, m))
    })
}

/// Applies maps (b, heads, n, m) to values (b, m, heads * e): (b, n, heads * e). Not
/// differentiable: tracked arguments are an error.
pub fn read_maps(maps: &Tensor, v: &Tensor) -> Result<Tensor> {
    let ((b, heads, n, m), (_, _, wide)) = (maps.dims4()?, v.dims3()?);
    if v.dims() != [b, m, wide] || heads == 0 || !wide.is_multiple_of(heads) || m * wide == 0 {
        bail!("maps {:?} for values {:?}", maps.dims(), v.dims());
    }
    untracked("reading attention maps", &[maps, v])?;
    let e = wide / heads;
    let sizes = Sizes {
        b,
        heads,
        n,
        m,
        d: e,
        e,
        causal: false,
    };
    let mut out = vec![0f32; b * n * wide];
    op::with([maps, v], |[maps, v]| {
        read(maps, &packed_values(v, sizes), sizes, &mut out);
        op::tensor(out, sizes.output())
    })
}

fn fill_maps(q: &[f32], keys: &[Packed], sizes: Sizes, out: &mut [f32]) {
    let Sizes { heads, n, m, d, .. } = sizes;
    let scale = 1.0 / (d as f32).sqrt();
    let block = (SCORES / m / 8 * 8).clamp(8, QUERIES);
    let tasks = out.chunks_mut((n * m).max(1)).enumerate();
    let tasks: Vec<_> = tasks
        .flat_map(|(head, maps)| {
            maps.chunks_mut(block * m)
                .enumerate()
                .map(move |t| (head, t))
        })
        .collect();
    tasks.into_par_iter().for_each(|(head, (i, maps))| {
        let (keys, first) = (&keys[head], i * block);
        let queries = sizes.head(q, n, d, (head / heads, head % heads));
        let mut rows: Vec<_> = maps.chunks_mut(m).collect();
        multiply(
            &queries,
            first..first + rows.len(),
            keys,
            0..keys.panels().len(),
            &mut rows,
        );
        normalise(rows.into_iter(), scale);
    });
}

fn read(maps: &[f32], values: &[Packed], sizes: Sizes, out: &mut [f32]) {
    let Sizes {
        b, heads, n, m, e, ..
    } = sizes;
    let blocks = n.div_ceil(QUERIES);
    let place = |image, query, head| (image * heads + head) * blocks + query / QUERIES;
    shares(out, e, (n, heads), b * heads * blocks, place)
        .into_par_iter()
        .enumerate()
        .for_each(|(i, mut out)| {
            let (values, first) = (&values[i / blocks], i % blocks * QUERIES);
            let maps = Matrix {
                values: &maps[i / blocks * n * m..],
                stride: m,
                terms: m,
            };
            let panels = 0..values.panels().len();
            multiply(&maps, first..first + out.len(), values, panels, &mut out);
        });
}

/// k^T of every image and head.
fn packed_keys(k: &[f32], sizes: Sizes) -> Vec<Packed> {
    let Sizes { b, heads, m, d, .. } = sizes;
    let pack = |i| {
        let keys = sizes.head(k, m, d, (i / heads, i % heads));
        Packed::from_values(keys.values, (d, m), |term, key| key * keys.stride + term)
    };
    (0..b * heads).into_par_iter().map(pack).collect()
}

/// v of every image and head.
fn packed_values(v: &[f32], sizes: Sizes) -> Vec<Packed> {
    let Sizes { b, heads, m, e, .. } = sizes;
    let pack = |i| {
        let values = sizes.head(v, m, e, (i / heads, i % heads));
        Packed::from_values(values.values, (m, e), |key, term| {
            key * values.stride + term
        })
    };
    (0..b * heads).into_par_iter().map(pack).collect()
}
