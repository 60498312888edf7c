//! The transform of the filters.

use std::sync::OnceLock;

use pulp::{Simd, WithSimd};

use super::{PIECE, points::Points};
use crate::kernel::{
    bf16::{
        Pairs,
        lines::{Line, pair, widened},
        pairs::BLOCK,
    },
    pages::unset,
    parts::each_chunk,
    simd::vectorised,
};

/// Taps of a filter.
const TAPS: usize = 9;

/// Transformed filters.
#[derive(Debug)]
pub(in crate::kernel) struct Filters {
    pub(super) columns: usize,
    steps: usize,
    /// The indices of the points.
    pub(super) points: &'static [usize],
    /// Panel by panel, in a panel point by point, and of a point step by step.
    lines: Vec<Line>,
}

impl Filters {
    /// Transforms the weights of a 3x3 convolution: of 32 inputs all taps, one after another.
    pub(in crate::kernel) fn of(weights: &Pairs, points: Points) -> Self {
        let points = points.indices();
        let steps = weights.steps() / TAPS;
        let count = weights.panels() * points.len() * steps;
        let mut lines = unset(count * BLOCK);
        each_chunk(&mut lines, BLOCK, &|i, block| {
            let (panel, point) = (i / steps / points.len(), points[i / steps % points.len()]);
            let step = i % steps;
            let taps = &weights.panel(panel)[step * TAPS * BLOCK..][..TAPS * BLOCK];
            vectorised(Transform(taps, point, block));
        });
        Self {
            columns: weights.columns(),
            steps,
            points,
            lines,
        }
    }

    /// The lines of the point with index `i` of a panel, step by step.
    #[inline(always)]
    pub(super) fn point(&self, panel: usize, i: usize) -> &[Line] {
        let count = self.steps * BLOCK;
        &self.lines[(panel * self.points.len() + i) * count..][..count]
    }
}

/// Filters that are transformed when they are needed first.
#[derive(Debug, Default)]
pub(in crate::kernel) struct LazyFilters {
    all: OnceLock<Filters>,
    doubled: OnceLock<Filters>,
}

impl LazyFilters {
    /// The filters of these weights, always the same ones.
    pub(in crate::kernel) fn of(&self, weights: &Pairs, points: Points) -> &Filters {
        let filters = match points {
            Points::All => &self.all,
            Points::Doubled => &self.doubled,
        };
        filters.get_or_init(|| Filters::of(weights, points))
    }
}

/// The blocks of nine taps, and the block of one point of their filters.
struct Transform<'a>(&'a [Line], usize, &'a mut [Line]);

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        const FILTER: [[f32; 3]; PIECE] = [
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.5],
            [0.5, -0.5, 0.5],
            [0.0, 0.0, 1.0],
        ];
        let Self(taps, point, block) = self;
        let (down, right) = (FILTER[point / PIECE], FILTER[point % PIECE]);
        for (at, line) in block.iter_mut().enumerate() {
            let mut sums = [[0.0; 2]; 16];
            for tap in 0..TAPS {
                let factor = down[tap / 3] * right[tap % 3];
                for (sums, pair) in sums.iter_mut().zip(taps[tap * BLOCK + at].0) {
                    let [even, odd] = widened(pair);
                    *sums = [sums[0] + factor * even, sums[1] + factor * odd];
                }
            }
            for (slot, [even, odd]) in line.0.iter_mut().zip(sums) {
                *slot = pair(even, odd);
            }
        }
    }
}
