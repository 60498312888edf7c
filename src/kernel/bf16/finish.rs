//! What becomes of the sums of a product: bias, residual, or the GELU of a gate.

use pulp::Simd;

use super::lines::COLUMNS;
use crate::kernel::{elementwise::gated, epilogue::Addends, prefetch::prefetch};

/// A row of the output.
#[derive(Clone, Copy, Default)]
pub(super) struct OutputRow {
    pub(super) index: usize,
    /// Its group, of those that have a bias each.
    pub(super) group: usize,
}

/// What is done with the sums of P panels, for a row of the output.
pub(super) trait Finish<const P: usize>: Sync {
    /// The panels that make the columns of panel `i` of the output.
    fn panels(&self, i: usize) -> [usize; P];

    /// The group of a row of the output, of those that have a bias each.
    fn group(&self, row: usize) -> usize;

    /// Begins to fetch what will be added to the columns from `column` on of a row, if that
    /// differs from row to row.
    fn prefetch(&self, _row: OutputRow, _column: usize) {}

    /// Writes the columns from `column` on of a row.
    fn write<S: Simd>(
        &self,
        s: S,
        sums: [&[f32; COLUMNS]; P],
        row: OutputRow,
        column: usize,
        out: &mut [f32],
    );
}

/// Bias and residual.
pub(super) struct Added<'a> {
    addends: Addends<'a>,
    /// Rows of the output that share a bias.
    group: usize,
    /// Columns of the output.
    columns: usize,
}

impl<'a> Added<'a> {
    /// For an output (rows, columns).
    pub(super) fn new(addends: Addends<'a>, rows: usize, columns: usize) -> Self {
        let biases = addends.bias.map_or(1, |bias| bias.len() / columns.max(1));
        Self {
            addends,
            group: (rows / biases.max(1)).max(1),
            columns,
        }
    }
}

impl Finish<1> for Added<'_> {
    fn panels(&self, i: usize) -> [usize; 1] {
        [i]
    }

    fn group(&self, row: usize) -> usize {
        row / self.group
    }

    #[inline(always)]
    fn prefetch(&self, row: OutputRow, column: usize) {
        let residual = self.addends.residual;
        let columns = residual.and_then(|x| x[row.index * self.columns + column..].first_chunk());
        if let Some(columns) = columns {
            prefetch::<COLUMNS>(columns);
        }
    }

    #[inline(always)]
    fn write<S: Simd>(
        &self,
        s: S,
        [sums]: [&[f32; COLUMNS]; 1],
        row: OutputRow,
        column: usize,
        out: &mut [f32],
    ) {
        let Addends { bias, residual } = self.addends;
        let bias = bias.map(|bias| &bias[row.group * self.columns + column..]);
        let residual = residual.map(|residual| &residual[row.index * self.columns + column..]);
        if let Ok(out) = <&mut [f32; COLUMNS]>::try_from(&mut *out) {
            return add_whole(s, sums, [bias, residual], out);
        }
        out.copy_from_slice(&sums[..out.len()]);
        for more in [bias, residual].into_iter().flatten() {
            out.iter_mut().zip(more).for_each(|(y, x)| *y += x);
        }
    }
}

/// `out` = sums + more.
#[inline(always)]
fn add_whole<S: Simd>(
    s: S,
    sums: &[f32; COLUMNS],
    more: [Option<&[f32]>; 2],
    out: &mut [f32; COLUMNS],
) {
    let (sums, _) = S::as_simd_f32s(sums);
    let (out, _) = S::as_mut_simd_f32s(out);
    let [bias, residual] = more.map(|more| more.map(|more| S::as_simd_f32s(&more[..COLUMNS]).0));
    for (i, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
        let mut y = *sum;
        for more in [bias, residual].into_iter().flatten() {
            y = s.add_f32s(y, more[i]);
        }
        *out = y;
    }
}

/// A value and the GELU of its gate.
pub(super) struct Gated<'a> {
    /// (2 d).
    pub(super) bias: Option<&'a [f32]>,
    pub(super) d: usize,
}

impl Finish<2> for Gated<'_> {
    fn panels(&self, i: usize) -> [usize; 2] {
        [i, i + self.d / COLUMNS]
    }

    fn group(&self, _: usize) -> usize {
        0
    }

    #[inline(always)]
    fn write<S: Simd>(
        &self,
        s: S,
        sums: [&[f32; COLUMNS]; 2],
        _: OutputRow,
        column: usize,
        out: &mut [f32],
    ) {
        let bias = self
            .bias
            .map(|bias| [&bias[column..], &bias[self.d + column..]]);
        let bias = bias.map(|both| both.map(|bias| S::as_simd_f32s(&bias[..COLUMNS]).0));
        let [values, gates] = sums.map(|sums| S::as_simd_f32s(sums).0);
        let (out, _) = S::as_mut_simd_f32s(out);
        for (i, out) in out.iter_mut().enumerate() {
            let (mut value, mut gate) = (values[i], gates[i]);
            if let Some([of_value, of_gate]) = bias {
                value = s.add_f32s(value, of_value[i]);
                gate = s.add_f32s(gate, of_gate[i]);
            }
            *out = gated(s, value, gate);
        }
    }
}
