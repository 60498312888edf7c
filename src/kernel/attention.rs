//! Multi-head attention in blocks, without a complete score matrix (T. Dao et al.,
//! FlashAttention, arXiv 2205.14135).
//!
//! Queries (b, n, heads * d), keys (b, m, heads * d) and values (b, m, heads * e)
//! are in the layout of linear layers: the heads are concatenated, without
//! transposition. All are f32, contiguous and on a CPU.

mod backward;
mod forward;
mod maps;
mod panel;
pub(super) mod rounded;

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::{
    gemm::{Matrix, packed::panels},
    op,
    simd::lanes,
};

pub use maps::{attention_maps, attention_maps_in, read_maps, read_maps_in};

/// softmax(q k^T / sqrt(d)) v for each head: (b, n, heads * e). Differentiable in all
/// arguments.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    tracked([q, k, v], Sizes::of([q, k, v], heads)?)
}

/// The same with causal masking, n = m.
pub fn attend_causally(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let sizes = Sizes::of([q, k, v], heads)?;
    let Sizes { n, m, .. } = sizes;
    if n != m {
        bail!("causal attention of {n} queries to {m} keys");
    }
    let causal = true;
    tracked([q, k, v], Sizes { causal, ..sizes })
}

/// The first image's maps, computed once, applied to every image's values (A. Hertz et
/// al., Prompt-to-Prompt, arXiv 2208.01626). Not differentiable: tracked arguments are an
/// error.
pub fn attend_through_first(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let sizes = Sizes::of([q, k, v], heads)?;
    op::untracked("attention through the first maps", &[q, k, v])?;
    op::with([q, k, v], |arguments| {
        op::tensor(forward::attend(arguments, sizes, true), sizes.output())
    })
}

fn tracked(arguments: [&Tensor; 3], sizes: Sizes) -> Result<Tensor> {
    let out = op::with(arguments, |arguments| {
        Ok(forward::attend(arguments, sizes, false))
    })?;
    op::tracked(
        "attend",
        arguments,
        out,
        sizes.output(),
        move |arguments, gradient| backward::backward(arguments, gradient, sizes),
    )
}

/// The sizes of an attention operation.
#[derive(Clone, Copy)]
struct Sizes {
    /// Number of images.
    b: usize,
    heads: usize,
    /// Number of queries.
    n: usize,
    /// Number of keys.
    m: usize,
    /// Width of a head's queries and keys.
    d: usize,
    /// Width of a head's values.
    e: usize,
    causal: bool,
}

impl Sizes {
    fn of([q, k, v]: [&Tensor; 3], heads: usize) -> Result<Self> {
        let ((b, n, wide), (_, m, out)) = (q.dims3()?, v.dims3()?);
        let fits = k.dims() == [b, m, wide] && v.dim(0)? == b;
        let whole = heads > 0 && wide.is_multiple_of(heads) && out.is_multiple_of(heads);
        if !fits || !whole || m * wide * out == 0 {
            bail!(
                "attention of {heads} heads: queries {:?}, keys {:?} and values {:?}",
                q.dims(),
                k.dims(),
                v.dims()
            );
        }
        Ok(Self {
            b,
            heads,
            n,
            m,
            d: wide / heads,
            e: out / heads,
            causal: false,
        })
    }

    fn output(self) -> (usize, usize, usize) {
        (self.b, self.n, self.heads * self.e)
    }

    /// One head's rows of x (b, rows, heads * terms).
    fn head(
        self,
        x: &[f32],
        rows: usize,
        terms: usize,
        (image, head): (usize, usize),
    ) -> Matrix<'_> {
        let stride = self.heads * terms;
        Matrix {
            values: &x[image * rows * stride + head * terms..],
            stride,
            terms,
        }
    }

    /// The factor of the scores, times log2 e because powers of two are used.
    fn scale(self) -> f32 {
        (std::f64::consts::LOG2_E / (self.d as f64).sqrt()) as f32
    }

    /// Number of keys that are visible to some of the queries.
    fn seen(self, queries: &Range<usize>) -> usize {
        if self.causal { queries.end } else { self.m }
    }

    /// The queries of each panel.
    fn panels(self) -> Vec<Range<usize>> {
        panels(self.n, lanes())
            .into_iter()
            .map(|panel| panel.column..(panel.column + panel.vectors * lanes()).min(self.n))
            .collect()
    }
}

/// The rows of a matrix from `row` on.
fn from(matrix: Matrix<'_>, row: usize) -> Matrix<'_> {
    Matrix {
        values: &matrix.values[row * matrix.stride..],
        ..matrix
    }
}

/// Distributes the heads' rows of x (b, n, heads * width), in order, to the shares
/// returned by `place(image, query, head)`.
fn shares(
    x: &mut [f32],
    width: usize,
    (n, heads): (usize, usize),
    count: usize,
    place: impl Fn(usize, usize, usize) -> usize,
) -> Vec<Vec<&mut [f32]>> {
    let mut shares: Vec<_> = (0..count).map(|_| Vec::new()).collect();
    for (i, row) in x.chunks_mut(width).enumerate() {
        let query = i / heads;
        shares[place(query / n, query % n, i % heads)].push(row);
    }
    shares
}

#[cfg(test)]
mod tests;
