//! Attention of operands rounded to bf16, with softmax and sums in f32.
//!
//! Both products are transposed, so that a column is a query throughout: the rows of the
//! first are keys, those of the second the channels of values. The weights that softmax
//! leaves are then pairs of rows of the first and the right side of the second, without a
//! shuffle, and softmax needs no sums within a vector, as in f32.

mod norms;
mod online;

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};

use norms::norms;
use online::Online;

use super::{Sizes, shares};
use crate::kernel::{
    bf16::{
        COLUMNS, Line, Operands, ROWS, Session, Start, Steps, Sums, TERMS, Unit, pair, round_row,
        short_line,
    },
    gemm::Matrix,
    op,
    pages::unset,
    parts::{each, map},
    simd::vectorised,
};

/// Keys whose scores are computed at once: they stay in the L1 cache.
const KEYS: usize = 128;

/// As [`attend`](super::attend). Not differentiable: tracked arguments are an error.
pub fn attend(unit: Unit, [q, k, v]: [&Tensor; 3], heads: usize, sees: Sees) -> Result<Tensor> {
    let sizes = Sizes::of([q, k, v], heads)?;
    op::untracked("attention in bf16", &[q, k, v])?;
    let causal = sees == Sees::Earlier;
    if causal && sizes.n != sizes.m {
        bail!(
            "causal attention of {} queries to {} keys",
            sizes.n,
            sizes.m
        );
    }
    let sizes = Sizes { causal, ..sizes };
    let group = if sees == Sees::ThroughFirst {
        sizes.b
    } else {
        1
    };
    op::with([q, k, v], |arguments| {
        op::tensor(
            forward(unit, arguments, sizes, group.max(1)),
            sizes.output(),
        )
    })
}

/// What queries read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// All keys of their image.
    All,
    /// The keys up to their own position.
    Earlier,
    /// Their image's values through the first image's maps.
    ThroughFirst,
}

/// The output (b, n, heads * e): each `group` of images is read through its first's maps.
fn forward(unit: Unit, [q, k, v]: [&[f32]; 3], sizes: Sizes, group: usize) -> Vec<f32> {
    let Sizes {
        b,
        heads,
        n,
        m,
        d,
        e,
        ..
    } = sizes;
    let keys = rounded(sizes, (0..b).step_by(group), |at| {
        let keys = sizes.head(k, m, d, at);
        (lines_of(keys, m), norms(keys, 0..m).fold(0.0, f32::max))
    });
    let values = rounded(sizes, 0..b, |at| transposed(sizes.head(v, m, e, at), m));
    let blocks = n.div_ceil(COLUMNS);
    let place =
        |image, query: usize, head| (image / group * heads + head) * blocks + query / COLUMNS;
    let mut out = unset(b * n * heads * e);
    let parts = shares(
        &mut out,
        e,
        (n, heads),
        b.div_ceil(group) * heads * blocks,
        place,
    );
    each(parts, &|i, mut out| {
        let (first, head) = (i / blocks / heads * group, i / blocks % heads);
        let start = i % blocks * COLUMNS;
        let images = first..b.min(first + group);
        let values: Vec<_> = images
            .map(|image| &values[image * heads + head][..])
            .collect();
        vectorised(Task {
            unit,
            sizes,
            rows: sizes.head(q, n, d, (first, head)),
            queries: start..n.min(start + COLUMNS),
            keys: &keys[i / blocks].0,
            longest: keys[i / blocks].1,
            values: &values,
            out: &mut out,
        });
    });
    out
}

/// A left side for each head of some images.
fn rounded<T: Send>(
    sizes: Sizes,
    images: impl Iterator<Item = usize>,
    round: impl Fn((usize, usize)) -> T + Sync,
) -> Vec<T> {
    let all = images.flat_map(|image| (0..sizes.heads).map(move |head| (image, head)));
    map(all.collect(), &|_, at| round(at))
}

/// The rows of a matrix, a block of terms after another.
fn lines_of(matrix: Matrix, rows: usize) -> Vec<Line> {
    struct Round<'a>(Matrix<'a>, usize);
    impl WithSimd for Round<'_> {
        type Output = Vec<Line>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Vec<Line> {
            let Self(matrix, rows) = self;
            let height = rows.next_multiple_of(ROWS);
            let mut lines = vec![Line::default(); matrix.terms.div_ceil(TERMS) * height];
            for row in 0..rows {
                let terms = &matrix.values[row * matrix.stride..][..matrix.terms];
                round_row(terms, &mut lines, (row, height));
            }
            lines
        }
    }
    vectorised(Round(matrix, rows))
}

/// The columns of a matrix, a block of rows after another.
fn transposed(matrix: Matrix, rows: usize) -> Vec<Line> {
    struct Round<'a>(Matrix<'a>, usize);
    impl WithSimd for Round<'_> {
        type Output = Vec<Line>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Vec<Line> {
            let Self(matrix, rows) = self;
            let height = matrix.terms.next_multiple_of(ROWS);
            let mut lines = vec![Line::default(); rows.div_ceil(TERMS) * height];
            let row = |row: usize| match row < rows {
                true => Some(&matrix.values[row * matrix.stride..][..matrix.terms]),
                false => None,
            };
            for (block, lines) in lines.chunks_mut(height).enumerate() {
                for i in 0..TERMS / 2 {
                    let first = block * TERMS + 2 * i;
                    let Some(even) = row(first) else { break };
                    let odd = row(first + 1);
                    for (channel, (line, even)) in lines.iter_mut().zip(even).enumerate() {
                        line.0[i] = pair(*even, odd.map_or(0.0, |odd| odd[channel]));
                    }
                }
            }
            lines
        }
    }
    vectorised(Round(matrix, rows))
}

/// One head of a block of queries, for the values of some images.
struct Task<'a, 'b> {
    unit: Unit,
    sizes: Sizes,
    /// The queries of the head.
    rows: Matrix<'a>,
    queries: Range<usize>,
    keys: &'a [Line],
    /// A bound of the length of a key.
    longest: f32,
    values: &'a [&'a [Line]],
    /// For each image, the rows of the queries.
    out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let Sizes { m, d, e, .. } = self.sizes;
        let session = Session::new(self.unit);
        let queries = packed(self.rows, self.queries.clone());
        let height = m.next_multiple_of(ROWS);
        let depth = Steps::at((0..d.div_ceil(TERMS)).map(|i| i * height)).of_terms(d);
        let mut scores: [Sums; KEYS / TERMS] = std::array::from_fn(|_| Sums::default());
        let mut weights = [Line::default(); KEYS];
        let mut online = Online::new(self.sizes.scale(), self.bounds());
        let mut totals = vec![Sums::default(); self.values.len() * e.div_ceil(TALL)];
        let seen = self.sizes.seen(&self.queries);
        let block = |start: usize| start..seen.min(start + KEYS);
        let mut blocks = (0..seen).step_by(KEYS).map(block).peekable();
        let Some(first) = blocks.peek() else { return };
        self.score(&session, first, (&queries, &depth), &mut scores);
        let mut shrink = online.weigh(s, self.shown(first, &scores), &mut weights);
        while let Some(keys) = blocks.next() {
            // Each product is in time before softmax reads or writes what it needs.
            if let Some(next) = blocks.peek() {
                self.score(&session, next, (&queries, &depth), &mut scores);
            }
            self.read(s, &session, &keys, &weights, shrink, &mut totals);
            if let Some(next) = blocks.peek() {
                shrink = online.weigh(s, self.shown(next, &scores), &mut weights);
            }
        }
        self.write(&online, &totals);
    }
}

/// Rows of two tiles.
const TALL: usize = 2 * ROWS;

/// A tile, and the next if it begins before `end`.
#[inline(always)]
fn tiles(first: usize, end: usize) -> (usize, Option<usize>) {
    let second = first + ROWS;
    (first, (second < end).then_some(second))
}

/// The number of blocks of 32 keys.
#[inline(always)]
fn tiles_of(keys: &Range<usize>) -> usize {
    keys.len().div_ceil(TERMS)
}

impl Task<'_, '_> {
    /// Bounds of the absolute values of the scores of each query: products of lengths.
    fn bounds(&self) -> [f32; COLUMNS] {
        let mut bounds = [0.0; COLUMNS];
        let norms = norms(self.rows, self.queries.clone());
        for (bound, norm) in bounds.iter_mut().zip(norms) {
            *bound = norm * self.longest;
        }
        bounds
    }

    /// The scores of some keys, and whether none is hidden.
    fn shown<'s>(&self, keys: &Range<usize>, scores: &'s [Sums]) -> (&'s [Sums], bool) {
        let whole = !self.sizes.causal && keys.len().is_multiple_of(TERMS);
        (&scores[..tiles_of(keys)], whole)
    }

    /// The scores of some keys.
    #[inline(always)]
    fn score(
        &self,
        session: &Session,
        keys: &Range<usize>,
        (queries, depth): (&[Line], &Steps),
        scores: &mut [Sums],
    ) {
        let scores = &mut scores[..tiles_of(keys)];
        for (first, scores) in keys.clone().step_by(TERMS).zip(&mut *scores) {
            let operands = Operands {
                a: self.keys,
                rows: tiles(first, keys.end),
                count: keys.end - first,
                steps: depth,
                b: queries,
            };
            session.multiply(operands, Start::Zero, scores);
        }
        self.mask(keys, scores);
    }

    /// Hides keys for earlier queries, and what is behind the last key.
    #[inline(always)]
    fn mask(&self, keys: &Range<usize>, scores: &mut [Sums]) {
        let hidden = |key: usize| match self.sizes.causal {
            _ if key >= keys.end => COLUMNS,
            true => key.saturating_sub(self.queries.start).min(COLUMNS),
            false => 0,
        };
        for (block, scores) in scores.iter_mut().enumerate() {
            let first = keys.start + block * TERMS;
            if self.sizes.causal || first + TERMS > keys.end {
                for (i, row) in scores.0.iter_mut().enumerate() {
                    row[..hidden(first + i)].fill(f32::MIN);
                }
            }
        }
    }

    /// Adds the weighted values of some keys to the totals.
    #[inline(always)]
    fn read<S: Simd>(
        &self,
        s: S,
        session: &Session,
        keys: &Range<usize>,
        weights: &[Line],
        shrink: Option<[f32; COLUMNS]>,
        totals: &mut [Sums],
    ) {
        let e = self.sizes.e;
        let height = e.next_multiple_of(ROWS);
        let (first, count) = (keys.start / TERMS, tiles_of(keys));
        let steps = Steps::at((0..count).map(|i| i * height));
        for (values, totals) in self.values.iter().zip(totals.chunks_mut(e.div_ceil(TALL))) {
            for (row, totals) in (0..e).step_by(TALL).zip(totals) {
                if let Some(shrink) = &shrink {
                    scale(s, totals, shrink);
                }
                let operands = Operands {
                    a: &values[first * height..],
                    rows: tiles(row, e),
                    count: e - row,
                    steps: &steps,
                    b: weights,
                };
                session.multiply(operands, Start::Sums, totals);
            }
        }
    }

    /// Divides the totals by the sums of the weights.
    #[inline(always)]
    fn write(&mut self, online: &Online, totals: &[Sums]) {
        let factors = online.sums.map(|sum| 1.0 / sum);
        let images = totals.chunks(self.sizes.e.div_ceil(TALL));
        for (totals, out) in images.zip(self.out.chunks_mut(self.queries.len())) {
            for (query, out) in out.iter_mut().enumerate() {
                for (out, totals) in out.chunks_mut(TALL).zip(totals) {
                    for (slot, total) in out.iter_mut().zip(&totals.0) {
                        *slot = total[query] * factors[query];
                    }
                }
            }
        }
    }
}

/// Some rows of a matrix as the right side of a product: a column is a row.
#[inline(always)]
fn packed(matrix: Matrix, rows: Range<usize>) -> Vec<Line> {
    let mut lines = vec![Line::default(); matrix.terms.div_ceil(TERMS) * 2 * ROWS];
    for (column, row) in rows.enumerate() {
        let values = &matrix.values[row * matrix.stride..][..matrix.terms];
        for (values, lines) in values.chunks(TERMS).zip(lines.chunks_mut(2 * ROWS)) {
            let lines = &mut lines[column / ROWS * ROWS..][..ROWS];
            for (slot, pair) in lines.iter_mut().zip(short_line(values).0) {
                slot.0[column % ROWS] = pair;
            }
        }
    }
    lines
}

/// Multiplies the columns of sums by factors.
#[inline(always)]
fn scale<S: Simd>(s: S, sums: &mut Sums, factors: &[f32; COLUMNS]) {
    let (factors, _) = S::as_simd_f32s(factors);
    for row in &mut sums.0 {
        for (x, factor) in S::as_mut_simd_f32s(row).0.iter_mut().zip(factors) {
            *x = s.mul_f32s(*x, *factor);
        }
    }
}
