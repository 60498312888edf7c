//! The backward pass of attention, which recomputes the maps.
//!
//! With maps p, output o = p v and its gradient do: dv = p^T do, dp = do v^T,
//! ds = p (dp - rowsum(p dp)) / sqrt(d), dq = ds k and dk = ds^T q.

use std::ops::Range;

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::{
    Sizes,
    forward::hide,
    from,
    panel::{Online, Row, add_transposed, flat, multiply, pack, rows, unpack, zeros},
    shares,
};
use crate::kernel::{
    gemm::{Matrix, packed::PackedMatrix, sums},
    op::{self, Gradients},
    parts::{each_part, map},
    simd::vectorised,
};

/// Panels of queries per task.
const PANELS: usize = 16;

/// The gradients of q, k and v, if tracked.
pub(super) fn backward(
    arguments: [&Tensor; 3],
    gradient: &Tensor,
    sizes: Sizes,
) -> Result<Gradients<3>> {
    let [q, k, v] = arguments;
    let wanted = arguments.map(Tensor::track_op);
    let [dq, dk, dv] = op::with([q, k, v, gradient], |values| {
        Ok(gradients(values, wanted, sizes))
    })?;
    let gradient = |x: &Tensor, values| op::if_tracked(x, || op::tensor(values, x.shape()));
    Ok([gradient(q, dq)?, gradient(k, dk)?, gradient(v, dv)?])
}

/// The gradients, undefined for arguments that are not `wanted`.
fn gradients(values: [&[f32]; 4], wanted: [bool; 3], sizes: Sizes) -> [Vec<f32>; 3] {
    let Sizes {
        b,
        heads,
        n,
        m,
        d,
        e,
        ..
    } = sizes;
    let panels = sizes.panels();
    let groups: Vec<_> = panels.chunks(PANELS).collect();
    let group_of = |query| {
        groups
            .iter()
            .position(|group| group[group.len() - 1].end > query)
    };
    let place =
        |image, query, head| (image * heads + head) * groups.len() + group_of(query).unwrap_or(0);
    let mut dq = vec![0f32; b * n * heads * d];
    let shares = shares(&mut dq, d, (n, heads), b * heads * groups.len(), place);
    let sums = map(shares, &|i, mut dq| {
        let at = (i / groups.len() / heads, i / groups.len() % heads);
        let mut task = Task::new(values, wanted, sizes, at, groups[i % groups.len()]);
        vectorised(Run(&mut task, &mut dq));
        (task.keys, task.values)
    });
    let (keys, values): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    [
        dq,
        add_up(&keys, (b, m, heads, d)),
        add_up(&values, (b, m, heads, e)),
    ]
}

/// The sums of each head's groups: (b, m, heads * width).
fn add_up(sums: &[Option<Sum>], (b, m, heads, width): (usize, usize, usize, usize)) -> Vec<f32> {
    let mut out = vec![0f32; b * m * heads * width];
    let groups = sums.len() / (b * heads).max(1);
    each_part(&mut out, m * heads * width, &|image, out| {
        for head in 0..heads {
            let first = (image * heads + head) * groups;
            for sum in sums[first..first + groups].iter().flatten() {
                sum.add_to(&mut out[head * width..], heads * width);
            }
        }
    });
    out
}

/// A sum over queries: for each key, weights times the queries' rows.
struct Sum {
    rows: PackedMatrix,
    keys: usize,
    /// For each of the rows' panels, a row for each key.
    sums: Vec<f32>,
}

impl Sum {
    /// Creates a sum, initially zero, for `count` rows of a matrix.
    fn new(rows: Matrix, count: usize, keys: usize) -> Self {
        let packed = rows.packed(count);
        let padded = packed
            .panels()
            .last()
            .map_or(0, |p| p.column + p.vectors * super::lanes());
        Self {
            rows: packed,
            keys,
            sums: vec![0.0; padded * keys],
        }
    }

    /// Adds rows, multiplied by the weights of each key.
    #[inline(always)]
    fn add<S: Simd>(&mut self, s: S, weights: Matrix, keys: usize, rows: Range<usize>) {
        let mut scratch = Vec::new();
        for &panel in self.rows.panels() {
            let block = self.rows.block(panel, rows.clone(), &mut scratch);
            let width = panel.vectors * S::F32_LANES;
            let sums = &mut self.sums[panel.column * self.keys..][..keys * width];
            match panel.vectors {
                1 => add::<S, 1>(s, weights, block, sums),
                2 => add::<S, 2>(s, weights, block, sums),
                _ => add::<S, 3>(s, weights, block, sums),
            }
        }
    }

    /// Adds the sums to `out`, whose rows are `stride` apart.
    fn add_to(&self, out: &mut [f32], stride: usize) {
        for panel in self.rows.panels() {
            let width = panel.vectors * super::lanes();
            let used = width.min(self.rows.columns() - panel.column);
            let sums = self.sums[panel.column * self.keys..].chunks(width);
            for (out, sums) in out.chunks_mut(stride).zip(sums).take(self.keys) {
                let out = &mut out[panel.column..][..used];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}

/// `out` += `weights` times a block of rows.
#[inline(always)]
fn add<S: Simd, const U: usize>(s: S, weights: Matrix, block: &[f32], out: &mut [f32]) {
    match S::REGISTER_COUNT >= 32 {
        true => add_strips::<S, 8, U>(s, weights, block, out),
        false => add_strips::<S, 4, U>(s, weights, block, out),
    }
}

#[inline(always)]
fn add_strips<S: Simd, const M: usize, const U: usize>(
    s: S,
    weights: Matrix,
    block: &[f32],
    out: &mut [f32],
) {
    let (out, _) = S::as_mut_simd_f32s(out);
    let (out, _) = out.as_chunks_mut::<U>();
    for (i, out) in out.chunks_mut(M).enumerate() {
        let sums = sums::<S, M, U>(s, rows(weights, i * M, out.len()), block);
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = s.add_f32s(*out, sum);
            }
        }
    }
}

/// One head of some panels of queries.
struct Task<'a> {
    /// q, k, v and the output's gradient.
    arguments: [&'a [f32]; 4],
    sizes: Sizes,
    at: (usize, usize),
    panels: &'a [Range<usize>],
    /// Whether the gradient of q is needed.
    queries: bool,
    /// The gradient of k.
    keys: Option<Sum>,
    /// The gradient of v.
    values: Option<Sum>,
}

impl<'a> Task<'a> {
    fn new(
        arguments: [&'a [f32]; 4],
        [queries, keys, values]: [bool; 3],
        sizes: Sizes,
        at: (usize, usize),
        panels: &'a [Range<usize>],
    ) -> Self {
        let Sizes { n, m, d, e, .. } = sizes;
        let (first, end) = (panels[0].start, panels[panels.len() - 1].end);
        let sum = |rows| Sum::new(from(rows, first), end - first, m);
        Self {
            arguments,
            sizes,
            at,
            panels,
            queries,
            keys: keys.then(|| sum(sizes.head(arguments[0], n, d, at))),
            values: values.then(|| sum(sizes.head(arguments[3], n, e, at))),
        }
    }

    #[inline(always)]
    fn panel<S: Simd, const V: usize>(
        &mut self,
        s: S,
        queries: &Range<usize>,
        dq: &mut [&mut [f32]],
    ) {
        let Sizes { n, m, d, e, .. } = self.sizes;
        let [_, k, v, _] = self.arguments;
        let maps = self.maps::<S, V>(s, queries);
        let first = self.panels[0].start;
        let rows = queries.start - first..queries.end - first;
        if let Some(sum) = &mut self.values {
            sum.add(
                s,
                weights::<S, V>(&maps, rows.len()),
                maps.len(),
                rows.clone(),
            );
        }
        if !self.queries && self.keys.is_none() {
            return;
        }
        let gradient = self.sizes.head(self.arguments[3], n, e, self.at);
        let gradient = pack::<S, V>(s, gradient, queries, 1.0);
        let mut slopes = zeros::<S, V>(s, maps.len());
        multiply(s, self.sizes.head(v, m, e, self.at), &gradient, &mut slopes);
        slope(s, &maps, 1.0 / (d as f32).sqrt(), &mut slopes);
        if let Some(sum) = &mut self.keys {
            sum.add(s, weights::<S, V>(&slopes, rows.len()), maps.len(), rows);
        }
        if self.queries {
            let mut panel = zeros::<S, V>(s, d);
            let keys = self.sizes.head(k, m, d, self.at);
            add_transposed(s, keys, &slopes, [s.splat_f32s(0.0); V], &mut panel);
            unpack::<S, V>(&panel, dq);
        }
    }

    /// The maps of some queries: a row for each key.
    #[inline(always)]
    fn maps<S: Simd, const V: usize>(&self, s: S, queries: &Range<usize>) -> Vec<Row<S, V>> {
        let Sizes { n, m, d, .. } = self.sizes;
        let [q, k, _, _] = self.arguments;
        let rows = self.sizes.head(q, n, d, self.at);
        let packed = pack::<S, V>(s, rows, queries, self.sizes.scale());
        let mut maps = zeros::<S, V>(s, self.sizes.seen(queries));
        multiply(s, self.sizes.head(k, m, d, self.at), &packed, &mut maps);
        if self.sizes.causal {
            hide::<S, V>(0, queries.start, &mut maps);
        }
        let mut online = Online::new(s);
        online.weigh(s, &mut maps);
        online.finish(s, &mut maps);
        maps
    }
}

/// The columns of a panel as weights of the queries for each key.
#[inline(always)]
fn weights<S: Simd, const V: usize>(panel: &[Row<S, V>], queries: usize) -> Matrix<'_> {
    Matrix {
        values: flat::<S, V>(panel),
        stride: V * S::F32_LANES,
        terms: queries,
    }
}

/// Converts gradients of the maps to gradients of the scores.
#[inline(always)]
fn slope<S: Simd, const V: usize>(s: S, maps: &[Row<S, V>], scale: f32, slopes: &mut [Row<S, V>]) {
    let mut mean = [s.splat_f32s(0.0); V];
    for (map, slope) in maps.iter().zip(slopes.iter()) {
        for ((mean, map), slope) in mean.iter_mut().zip(map).zip(slope) {
            *mean = s.mul_add_e_f32s(*map, *slope, *mean);
        }
    }
    let scale = s.splat_f32s(scale);
    for (map, slope) in maps.iter().zip(slopes) {
        for ((mean, map), slope) in mean.iter().zip(map).zip(slope) {
            let above = s.sub_f32s(*slope, *mean);
            *slope = s.mul_f32s(s.mul_f32s(*map, scale), above);
        }
    }
}

/// A task, and the output for the gradient of its queries.
struct Run<'a, 'b, 'c>(&'a mut Task<'b>, &'a mut [&'c mut [f32]]);

impl WithSimd for Run<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self(task, mut dq) = self;
        for queries in task.panels {
            let (rows, rest) = dq.split_at_mut(queries.len());
            match queries.len().div_ceil(S::F32_LANES) {
                1 => task.panel::<S, 1>(s, queries, rows),
                2 => task.panel::<S, 2>(s, queries, rows),
                _ => task.panel::<S, 3>(s, queries, rows),
            }
            dq = rest;
        }
    }
}
