//! The softmax between the two products, a block of keys at a time.

use pulp::Simd;

use super::TALL;
use crate::kernel::{
    bf16::{COLUMNS, Line, ROWS, Sums},
    simd::{exp2, exp2_for_bf16},
};

/// Online softmax down the columns of successive blocks (M. Milakov and N. Gimelshein,
/// arXiv 1805.02867).
pub(super) struct Online {
    /// The factor of the scores, above zero.
    scale: f32,
    peaks: [f32; COLUMNS],
    pub(super) sums: [f32; COLUMNS],
}

impl Online {
    pub(super) fn new(scale: f32) -> Self {
        Self {
            scale,
            peaks: [f32::MIN; COLUMNS],
            sums: [0.0; COLUMNS],
        }
    }

    /// Writes 2^(scale (x - peak)) of scores x, with the maximum so far, as pairs of rows, and
    /// returns the factors by which earlier results must be multiplied, unless all are 1.
    #[inline(always)]
    pub(super) fn weigh<S: Simd>(
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
            let added = weigh_column(s, scores, (i, peak, scale), weights);
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

/// Writes the weights of column `i` of vectors, and returns their sums.
#[inline(always)]
fn weigh_column<S: Simd>(
    s: S,
    scores: &[Sums],
    (i, peak, scale): (usize, S::f32s, S::f32s),
    weights: &mut [Line],
) -> S::f32s {
    let offset = s.neg_f32s(s.mul_f32s(peak, scale));
    let (half, at) = (
        i * S::F32_LANES / ROWS,
        i * S::F32_LANES % ROWS / S::F32_LANES,
    );
    let mut sums = [s.splat_f32s(0.0); 2];
    for (block, weights) in scores.iter().zip(weights.chunks_mut(TALL)) {
        let weights = &mut weights[half * ROWS..][..ROWS];
        for (rows, weights) in block.0.as_chunks::<2>().0.iter().zip(weights) {
            let mut pair = [peak; 2];
            for ((x, sum), row) in pair.iter_mut().zip(&mut sums).zip(rows) {
                let scaled = s.mul_add_e_f32s(S::as_simd_f32s(row).0[i], scale, offset);
                *x = exp2_for_bf16(s, scaled);
                *sum = s.add_f32s(*sum, *x);
            }
            S::as_mut_simd_u32s(&mut weights.0).0[at] = round_pair(s, pair);
        }
    }
    s.add_f32s(sums[0], sums[1])
}

/// Pairs of finite values, rounded to the nearest bf16. Ties, which powers of two hardly ever
/// are, go up: evenness would cost as much as a fifth of the power.
#[inline(always)]
fn round_pair<S: Simd>(s: S, pair: [S::f32s; 2]) -> S::u32s {
    let half = s.splat_u32s(0x8000);
    let [even, odd] = pair;
    let near = [
        s.add_u32s(s.transmute_u32s_f32s(even), half),
        s.add_u32s(s.transmute_u32s_f32s(odd), half),
    ];
    let even = s.wrapping_dyn_shr_u32s(near[0], s.splat_u32s(16));
    s.or_u32s(even, s.and_u32s(near[1], s.splat_u32s(0xFFFF_0000)))
}
