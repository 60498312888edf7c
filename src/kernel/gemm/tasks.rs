//! Distribution of a product to the threads.

use std::ops::Range;

use super::{
    Lhs, Product, ROWS, TALLEST,
    packed::{PackedMatrix, Panel},
};
use crate::kernel::simd::vectorised;

/// Columns per task if there are too few rows.
const COLUMNS: usize = 96;

/// A part of the output: some rows of some panels.
pub(in crate::kernel) struct Task<'a> {
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    /// The panels' columns of each row.
    pub out: Vec<&'a mut [f32]>,
}

impl<'a> Task<'a> {
    /// The complete rows of an output.
    pub(in crate::kernel) fn whole_rows(
        rows: Range<usize>,
        b: &PackedMatrix,
        out: Vec<&'a mut [f32]>,
    ) -> Self {
        let panels = 0..b.panels().len();
        Self { rows, panels, out }
    }

    /// Overwrites this part of the output with a b, on this thread.
    pub(in crate::kernel) fn compute(&mut self, a: &impl Lhs, b: &PackedMatrix) {
        vectorised(Product { a, b, task: self });
    }
}

/// Splits an output by rows and, if there are too few, also by columns.
pub(in crate::kernel) fn tasks<'a>(
    out: &'a mut [f32],
    rows: usize,
    b: &PackedMatrix,
) -> Vec<Task<'a>> {
    let threads = rayon::current_num_threads();
    let height = rows.div_ceil(4 * threads).next_multiple_of(TALLEST);
    let columns = b.columns();
    // Half precision is widened once for each task.
    let tallest = if b.is_half() { 2 * ROWS } else { ROWS };
    let (height, groups) = match height >= ROWS / 4 {
        true => (height.min(tallest), groups(b.panels(), columns)),
        false => (tallest, groups(b.panels(), COLUMNS)),
    };
    let mut tasks = Vec::new();
    for (i, block) in out.chunks_mut(height * columns).enumerate() {
        let cuts = groups.iter().map(|panels| b.panels()[panels.start].column);
        let cuts: Vec<_> = cuts.collect();
        let parts = cut(block, columns, &cuts).into_iter().zip(&groups);
        tasks.extend(parts.map(|(out, panels)| Task {
            rows: i * height..i * height + out.len(),
            panels: panels.clone(),
            out,
        }));
    }
    tasks
}

/// Splits the rows of `out` (rows, columns) at the `cuts`, the first of which is 0, and
/// returns a part of every row for each cut.
pub(in crate::kernel) fn cut<'a>(
    out: &'a mut [f32],
    columns: usize,
    cuts: &[usize],
) -> Vec<Vec<&'a mut [f32]>> {
    let mut rest: Vec<_> = out.chunks_mut(columns).collect();
    let mut parts = Vec::new();
    for (i, start) in cuts.iter().enumerate() {
        let end = cuts.get(i + 1).unwrap_or(&columns);
        let split = |row: &'a mut [f32]| row.split_at_mut(end - start);
        let (part, tail) = rest.into_iter().map(split).unzip();
        parts.push(part);
        rest = tail;
    }
    parts
}

/// Groups neighbouring panels of about `columns` columns.
fn groups(panels: &[Panel], columns: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut start = 0;
    for (i, panel) in panels.iter().enumerate().skip(1) {
        if panel.column - panels[start].column >= columns {
            groups.push(start..i);
            start = i;
        }
    }
    groups.push(start..panels.len());
    groups
}
