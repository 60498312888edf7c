//! The softmax between the two products, a block of keys at a time.

use pulp::Simd;

use super::TALL;
use crate::kernel::{
    bf16::{COLUMNS, Line, ROWS, Sums},
    simd::{bounded_exp2_for_bf16, exp2, exp2_for_bf16},
};

/// The largest bound of a scaled score that stands in for the maximum: weights are then at
/// least 2^-100, far above the smallest numbers.
const LARGEST_BOUND: f32 = 50.0;

/// Softmax down the columns of successive blocks, relative to the maximum so far (M. Milakov
/// and N. Gimelshein, arXiv 1805.02867), or to bounds that are known before.
pub(super) struct Online {
    /// The factor of the scores, above zero.
    scale: f32,
    peaks: [f32; COLUMNS],
    /// Whether the peaks are bounds of all scores.
    bounded: bool,
    pub(super) sums: [f32; COLUMNS],
}

impl Online {
    /// For scores whose absolute values are at most `bounds`.
    pub(super) fn new(scale: f32, bounds: [f32; COLUMNS]) -> Self {
        let bounded = bounds.iter().all(|bound| bound * scale <= LARGEST_BOUND);
        Self {
            scale,
            peaks: if bounded { bounds } else { [f32::MIN; COLUMNS] },
            bounded,
            sums: [0.0; COLUMNS],
        }
    }

    /// Writes 2^(scale (x - peak)) of scores x, with the maximum so far or the bound, as pairs
    /// of rows, and returns the factors by which earlier results must be multiplied, unless all
    /// are 1. Some scores may be hidden, unless they are `whole`.
    #[inline(always)]
    pub(super) fn weigh<S: Simd>(
        &mut self,
        s: S,
        (scores, whole): (&[Sums], bool),
        weights: &mut [Line],
    ) -> Option<[f32; COLUMNS]> {
        match self.bounded {
            true => {
                self.weigh_bounded(s, (scores, whole), weights);
                None
            }
            false => self.weigh_online(s, scores, weights),
        }
    }

    #[inline(always)]
    fn weigh_bounded<S: Simd>(
        &mut self,
        s: S,
        (scores, whole): (&[Sums], bool),
        weights: &mut [Line],
    ) {
        let scale = s.splat_f32s(self.scale);
        let peaks = S::as_simd_f32s(&self.peaks).0;
        let sums = S::as_mut_simd_f32s(&mut self.sums).0;
        for (i, (peak, sum)) in peaks.iter().zip(sums).enumerate() {
            let column = (i, *peak, scale);
            let added = match whole {
                true => weigh_column::<S, false>(s, scores, column, weights),
                false => weigh_column::<S, true>(s, scores, column, weights),
            };
            *sum = s.add_f32s(*sum, added);
        }
    }

    #[inline(always)]
    fn weigh_online<S: Simd>(
        &mut self,
        s: S,
        scores: &[Sums],
        weights: &mut [Line],
    ) -> Option<[f32; COLUMNS]> {
        let (mut shrink, scale) = ([1f32; COLUMNS], s.splat_f32s(self.scale));
        for (i, shrink) in S::as_mut_simd_f32s(&mut shrink).0.iter_mut().enumerate() {
            let before = &mut S::as_mut_simd_f32s(&mut self.peaks).0[i];
            let peak = peak(s, scores, i, *before);
            *shrink = exp2(s, s.mul_f32s(s.sub_f32s(*before, peak), scale));
            *before = peak;
            let added = weigh_column::<S, true>(s, scores, (i, peak, scale), weights);
            let sum = &mut S::as_mut_simd_f32s(&mut self.sums).0[i];
            *sum = s.mul_add_e_f32s(*sum, *shrink, added);
        }
        let same = shrink.map(f32::to_bits) == [1f32.to_bits(); COLUMNS];
        (!same).then_some(shrink)
    }
}

/// The maximum of column `i` of vectors and of `before`.
#[inline(always)]
fn peak<S: Simd>(s: S, scores: &[Sums], i: usize, before: S::f32s) -> S::f32s {
    let mut peaks = [before; 4];
    for block in scores {
        for rows in block.0.as_chunks::<4>().0 {
            for (peak, row) in peaks.iter_mut().zip(rows) {
                *peak = s.max_f32s(*peak, S::as_simd_f32s(row).0[i]);
            }
        }
    }
    let [a, b, c, d] = peaks;
    s.max_f32s(s.max_f32s(a, b), s.max_f32s(c, d))
}

/// Writes the weights of column `i` of vectors, cut off to bf16, and returns their sums: so
/// the weights' errors have no common direction. With `HIDDEN`, some scores may be the smallest
/// number, whose weight is 0.
#[inline(always)]
fn weigh_column<S: Simd, const HIDDEN: bool>(
    s: S,
    scores: &[Sums],
    (i, peak, scale): (usize, S::f32s, S::f32s),
    weights: &mut [Line],
) -> S::f32s {
    let offset = s.neg_f32s(s.mul_f32s(peak, scale));
    let upper = s.splat_u32s(0xFFFF_0000);
    let (half, at) = (
        i * S::F32_LANES / ROWS,
        i * S::F32_LANES % ROWS / S::F32_LANES,
    );
    let mut sums = [s.splat_f32s(0.0); 2];
    for (block, weights) in scores.iter().zip(weights.chunks_mut(TALL)) {
        let weights = &mut weights[half * ROWS..][..ROWS];
        for (rows, weights) in block.0.as_chunks::<2>().0.iter().zip(weights) {
            let mut pair = [upper; 2];
            for ((x, sum), row) in pair.iter_mut().zip(&mut sums).zip(rows) {
                let scaled = s.mul_add_e_f32s(S::as_simd_f32s(row).0[i], scale, offset);
                let weight = match HIDDEN {
                    true => exp2_for_bf16(s, scaled),
                    false => bounded_exp2_for_bf16(s, scaled),
                };
                *x = s.and_u32s(s.transmute_u32s_f32s(weight), upper);
                *sum = s.add_f32s(*sum, s.transmute_f32s_u32s(*x));
            }
            let even = s.wrapping_dyn_shr_u32s(pair[0], s.splat_u32s(16));
            S::as_mut_simd_u32s(&mut weights.0).0[at] = s.or_u32s(even, pair[1]);
        }
    }
    s.add_f32s(sums[0], sums[1])
}
