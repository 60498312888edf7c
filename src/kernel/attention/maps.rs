//! Complete attention maps, for controls that read or rewrite them.

use candle_core::{Result, Tensor, bail};

use super::{Sizes, shares};
use crate::kernel::{
    bf16::{Arithmetic, RightSide},
    gemm::Matrix,
    op,
    pages::unset,
    parts::{each, map},
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
    attention_maps_in(Arithmetic::F32, q, k, heads)
}

/// [`attention_maps`] with products in an arithmetic.
pub fn attention_maps_in(
    arithmetic: Arithmetic,
    q: &Tensor,
    k: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    let sizes = Sizes::of([q, k, k], heads)?;
    op::untracked("an attention map", &[q, k])?;
    let Sizes { b, n, m, .. } = sizes;
    let mut out = unset(b * heads * n * m);
    op::with([q, k], |[q, k]| {
        let keys = packed(sizes, |at| {
            RightSide::transposed(arithmetic, sizes.head(k, m, sizes.d, at), m)
        });
        fill_maps(q, &keys, sizes, &mut out);
        op::tensor(out, (b, heads, n, m))
    })
}

/// Applies maps (b, heads, n, m) to values (b, m, heads * e): (b, n, heads * e). Not
/// differentiable: tracked arguments are an error.
pub fn read_maps(maps: &Tensor, v: &Tensor) -> Result<Tensor> {
    read_maps_in(Arithmetic::F32, maps, v)
}

/// [`read_maps`] with products in an arithmetic.
pub fn read_maps_in(arithmetic: Arithmetic, maps: &Tensor, v: &Tensor) -> Result<Tensor> {
    let ((b, heads, n, m), (_, _, wide)) = (maps.dims4()?, v.dims3()?);
    if v.dims() != [b, m, wide] || heads == 0 || !wide.is_multiple_of(heads) || m * wide == 0 {
        bail!("maps {:?} for values {:?}", maps.dims(), v.dims());
    }
    op::untracked("reading attention maps", &[maps, v])?;
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
    let mut out = unset(b * n * wide);
    op::with([maps, v], |[maps, v]| {
        let values = packed(sizes, |at| {
            RightSide::of(arithmetic, sizes.head(v, m, e, at), m)
        });
        read(maps, &values, sizes, &mut out);
        op::tensor(out, sizes.output())
    })
}

fn fill_maps(q: &[f32], keys: &[RightSide], sizes: Sizes, out: &mut [f32]) {
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
    each(tasks, &|_, (head, (i, maps))| {
        let (keys, first) = (&keys[head], i * block);
        let queries = sizes.head(q, n, d, (head / heads, head % heads));
        keys.compute(queries, first, maps.chunks_mut(m).collect());
        normalise(maps.chunks_mut(m), scale);
    });
}

fn read(maps: &[f32], values: &[RightSide], sizes: Sizes, out: &mut [f32]) {
    let Sizes {
        b, heads, n, m, e, ..
    } = sizes;
    let blocks = n.div_ceil(QUERIES);
    let place = |image, query, head| (image * heads + head) * blocks + query / QUERIES;
    let shares = shares(out, e, (n, heads), b * heads * blocks, place);
    each(shares, &|i, out| {
        let (values, first) = (&values[i / blocks], i % blocks * QUERIES);
        let maps = Matrix::contiguous(&maps[i / blocks * n * m..], m);
        values.compute(maps, first, out);
    });
}

/// Packs a matrix for each head of each image.
fn packed(sizes: Sizes, pack: impl Fn((usize, usize)) -> RightSide + Sync) -> Vec<RightSide> {
    let Sizes { b, heads, .. } = sizes;
    let all = (0..b * heads).map(|i| (i / heads, i % heads));
    map(all.collect(), &|_, at| pack(at))
}
