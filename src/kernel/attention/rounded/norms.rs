//! The lengths of queries and keys, which bound their scores.

use std::ops::Range;

use crate::kernel::gemm::Matrix;

/// Bounds of the lengths of rows, of what bf16 makes of them, too.
pub(super) fn norms(matrix: Matrix<'_>, rows: Range<usize>) -> impl Iterator<Item = f32> {
    const ROUNDING: f32 = 1.01;
    rows.map(move |row| {
        let terms = &matrix.values[row * matrix.stride..][..matrix.terms];
        match ROUNDING * square(terms).sqrt() {
            norm if norm.is_nan() => f32::INFINITY,
            norm => norm,
        }
    })
}

/// The sum of squares.
fn square(terms: &[f32]) -> f32 {
    let (blocks, rest) = terms.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += x * x;
        }
    }
    sums.into_iter().chain(rest.iter().map(|x| x * x)).sum()
}
