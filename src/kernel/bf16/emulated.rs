//! What tiles compute, in plain code: operands in bf16, products and sums in f32.

use super::lines::{COLUMNS, Line, Operands, ROWS, Start, Sums, widened};

/// As [`Session::multiply`](super::unit::Session::multiply).
#[inline(always)]
pub(super) fn multiply(operands: Operands, start: Start, sums: &mut Sums) {
    let tiles = std::iter::once(operands.rows.0).chain(operands.rows.1);
    let rows = tiles.flat_map(|first| first..first + ROWS);
    let rows = rows.take(operands.count);
    for (first, sums) in rows.zip(&mut sums.0) {
        if start == Start::Zero {
            *sums = [0.0; COLUMNS];
        }
        for (offset, b) in operands.steps.bytes().iter().zip(operands.b.as_chunks().0) {
            add(operands.a[first + offset / size_of::<Line>()], b, sums);
        }
    }
}

/// Adds the products of one step: the even and the odd terms are summed apart.
#[inline(always)]
fn add(row: Line, b: &[Line; 2 * ROWS], sums: &mut [f32; COLUMNS]) {
    for (b, sums) in b.chunks(ROWS).zip(sums.chunks_mut(COLUMNS / 2)) {
        let mut apart = [[0.0; COLUMNS / 2]; 2];
        for (terms, b) in row.0.into_iter().map(widened).zip(b) {
            for (column, pair) in b.0.into_iter().enumerate() {
                let b = widened(pair);
                apart[0][column] += terms[0] * b[0];
                apart[1][column] += terms[1] * b[1];
            }
        }
        for ((sum, even), odd) in sums.iter_mut().zip(apart[0]).zip(apart[1]) {
            *sum += even + odd;
        }
    }
}
