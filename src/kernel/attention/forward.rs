//! Attention, one panel of queries at a time.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    Sizes, from,
    panel::{Online, Row, add_transposed, multiply, pack, unpack, zeros},
    shares,
};
use crate::kernel::{pages, parts::each, simd::vectorised};

/// Keys whose scores are computed at once: a panel of them fits into the L1 cache.
const KEYS: usize = 128;

/// The output (b, n, heads * e). If `together`, the first image's maps are applied to all
/// images' values.
pub(super) fn attend(arguments: [&[f32]; 3], sizes: Sizes, together: bool) -> Vec<f32> {
    let Sizes { b, heads, n, e, .. } = sizes;
    let panels = sizes.panels();
    let panel_of: Vec<_> = (0..panels.len())
        .flat_map(|i| panels[i].clone().map(move |_| i))
        .collect();
    let group = if together { b } else { 1 };
    let place =
        |image, query: usize, head| (image / group * heads + head) * panels.len() + panel_of[query];
    let mut out = pages::unset(b * n * heads * e);
    let count = b.div_ceil(group.max(1)) * heads * panels.len();
    let shares = shares(&mut out, e, (n, heads), count, place);
    each(shares, &|i, mut out| {
        let (image, head) = (i / panels.len() / heads, i / panels.len() % heads);
        vectorised(Task {
            arguments,
            sizes,
            images: image * group..(image + 1) * group,
            head,
            queries: panels[i % panels.len()].clone(),
            out: &mut out,
        });
    });
    out
}

/// One head of one panel of queries, for some images.
struct Task<'a, 'b> {
    arguments: [&'a [f32]; 3],
    sizes: Sizes,
    images: Range<usize>,
    head: usize,
    queries: Range<usize>,
    /// For each image, the rows of the queries.
    out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        match self.queries.len().div_ceil(S::F32_LANES) {
            1 => self.run::<S, 1>(s),
            2 => self.run::<S, 2>(s),
            _ => self.run::<S, 3>(s),
        }
    }
}

impl Task<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, s: S) {
        let Sizes { n, m, d, e, .. } = self.sizes;
        let [q, k, v] = self.arguments;
        let at = (self.images.start, self.head);
        let keys = self.sizes.head(k, m, d, at);
        let queries = self.sizes.head(q, n, d, at);
        let queries = pack::<S, V>(s, queries, &self.queries, self.sizes.scale());
        let seen = self.sizes.seen(&self.queries);
        let mut scores = zeros::<S, V>(s, KEYS.min(seen));
        let mut totals = zeros::<S, V>(s, self.images.len() * e);
        let mut online = Online::new(s);
        for start in (0..seen).step_by(KEYS) {
            let scores = &mut scores[..KEYS.min(seen - start)];
            multiply(s, from(keys, start), &queries, scores);
            if self.sizes.causal {
                hide::<S, V>(start, self.queries.start, scores);
            }
            let shrink = online.weigh(s, scores);
            for (image, totals) in self.images.clone().zip(totals.chunks_mut(e)) {
                let values = self.sizes.head(v, m, e, (image, self.head));
                add_transposed(s, from(values, start), scores, shrink, totals);
            }
        }
        online.finish(s, &mut totals);
        for (totals, out) in totals
            .chunks(e)
            .zip(self.out.chunks_mut(self.queries.len()))
        {
            unpack::<S, V>(totals, out);
        }
    }
}

/// Masks keys for earlier queries. The first row of the scores is key number `key`, the
/// first column query number `query`.
#[inline(always)]
pub(super) fn hide<S: Simd, const V: usize>(key: usize, query: usize, scores: &mut [Row<S, V>]) {
    for (i, row) in scores.iter_mut().enumerate() {
        let row: &mut [f32] = pulp::bytemuck::cast_slice_mut(row);
        let hidden = (key + i).saturating_sub(query).min(row.len());
        row[..hidden].fill(f32::MIN);
    }
}
