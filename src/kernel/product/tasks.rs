//! How a product is shared out to the threads.

use std::ops::Range;

use super::{
    super::packed::{Packed, Panel},
    ROWS, TALLEST,
};

/// Columns of a task where there are too few rows to share out.
const COLUMNS: usize = 96;

/// A part of the output: some rows of some panels.
pub(super) struct Task<'a> {
    /// Rows of the output.
    pub rows: Range<usize>,
    /// Panels of the right side.
    pub panels: Range<usize>,
    /// Their columns of each of the rows.
    pub out: Vec<&'a mut [f32]>,
}

/// Shares an output out: by rows where there are many, else by columns too.
pub(super) fn tasks<'a>(out: &'a mut [f32], rows: usize, b: &Packed) -> Vec<Task<'a>> {
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
        let cuts: Vec<_> = groups
            .iter()
            .map(|panels| b.panels()[panels.start].column)
            .collect();
        let parts = cut(block, columns, &cuts).into_iter().zip(&groups);
        tasks.extend(parts.map(|(out, panels)| Task {
            rows: i * height..i * height + out.len(),
            panels: panels.clone(),
            out,
        }));
    }
    tasks
}

/// The parts of each row of `out` (rows, columns) that begin at the `cuts`,
/// the first of which is 0: for each cut a part of every row.
pub(in super::super) fn cut<'a>(
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

/// Neighbouring panels of about so many columns.
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
