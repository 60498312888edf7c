//! Sums over rows: the gradients of biases.

use candle_core::{D, Result, Tensor};
use pulp::{Simd, WithSimd};

use super::{
    Value,
    curve::Linear,
    map::{Rows, accumulate, sum_columns},
};
use crate::kernel::{op, parts::map_parts, simd::vectorised};

/// Rows that are summed in f32 before the sums are added in f64.
const ROWS: usize = 256;

/// The sum (c) over all rows of x (.., c).
pub(in crate::kernel) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    let c = x.dim(D::Minus1)?;
    op::with([x], |[x]| {
        let part = |i: usize| {
            let end = x.len().min((i + 1) * ROWS * c);
            vectorised(Columns(&x[i * ROWS * c..end], c))
        };
        let mut sums = vec![0f64; c];
        for part in map_parts(x.len().div_ceil(ROWS * c), x.len(), &part) {
            accumulate(&mut sums, &part);
        }
        op::tensor(sums.into_iter().map(|sum| sum as f32).collect(), c)
    })
}

/// The sums of the columns of some rows.
struct Columns<'a>(&'a [f32], usize);

impl WithSimd for Columns<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> Vec<f32> {
        let Self(x, c) = self;
        let mut sums = vec![0f32; c];
        sum_columns(s, Value(Linear), [Rows(x, c)], x.len() / c, [&mut sums]);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_counts_once() {
        for (rows, c) in [(1, 1), (255, 3), (256, 16), (1000, 33)] {
            let values: Vec<f32> = (0..rows * c).map(|i| (i % 7) as f32 - 3.0).collect();
            let column = |i: usize| values[i..].iter().step_by(c).sum::<f32>();
            let expected: Vec<f32> = (0..c).map(column).collect();
            let x = op::tensor(values.clone(), (rows, c)).unwrap();
            assert_eq!(sum_rows(&x).unwrap().to_vec1::<f32>().unwrap(), expected);
        }
    }
}
