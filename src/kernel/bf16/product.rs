//! Products on all threads: each task rounds a strip of the left side into its cache, and
//! multiplies it by some panels of the right side.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    Pairs,
    finish::{Added, Finish, Gated, OutputRow},
    lines::{COLUMNS, Line, Operands, ROWS, Start, Steps, Sums, TERMS, round_row},
    unit::{Session, Unit},
};
use crate::kernel::{
    epilogue::Addends,
    gemm::{self, Matrix},
    parts::each,
    prefetch::prefetch,
    scratch::Scratch,
    simd::vectorised,
};

/// Lines of a strip of rows, half of a small L2 cache.
const STRIP: usize = 1 << 13;

/// Most rows of a strip.
const TALLEST: usize = 256;

/// Tasks per thread, to share the work evenly.
const TASKS: usize = 4;

/// The left side of a product.
pub(in crate::kernel) trait Left: Sync {
    /// Rows that lie together in one strip, in their order: the output is split into
    /// segments of as many.
    fn segment(&self) -> usize;

    fn strips(&self) -> usize;

    /// The strip of a segment of the output.
    fn strip_of(&self, segment: usize) -> usize;

    /// Rounds a strip.
    fn strip<S: Simd>(&self, s: S, strip: usize) -> Strip;
}

/// A part of the left side.
pub(in crate::kernel) struct Strip {
    pub(super) lines: Scratch<Line>,
    pub(super) steps: Steps,
    pub(super) tiles: Vec<Tile>,
}

/// The rows of a tile.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Tile {
    /// The line of the first one.
    pub(super) first: usize,
    /// Each row's number within the strip, or [`NOWHERE`].
    pub(super) rows: [u32; ROWS],
}

impl Tile {
    /// Tiles of so many rows, whose lines and numbers are in order.
    #[inline(always)]
    pub(super) fn of_rows(count: usize) -> Vec<Self> {
        let number = |row| if row < count { row as u32 } else { NOWHERE };
        let tile = |first| Self {
            first,
            rows: std::array::from_fn(|i| number(first + i)),
        };
        (0..count).step_by(ROWS).map(tile).collect()
    }
}

/// The number of a row that is not part of the output.
pub(super) const NOWHERE: u32 = u32::MAX;

/// `out` (rows, columns) = a b + addends, on all threads.
pub(in crate::kernel) fn product(
    unit: Unit,
    a: &impl Left,
    b: &Pairs,
    addends: Addends,
    out: &mut [f32],
) {
    let columns = b.columns();
    let Some(rows) = out.len().checked_div(columns) else {
        return;
    };
    let finish = Added::new(addends, rows, columns);
    finished(unit, (a, b), &finish, columns, out);
}

/// `out` (rows, d) = the first d columns of a b + bias, times the GELU of the others, on all
/// threads. d is a multiple of the width of a panel.
pub(in crate::kernel) fn linear_geglu(
    unit: Unit,
    a: &impl Left,
    b: &Pairs,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let d = b.columns() / 2;
    finished(unit, (a, b), &Gated { bias, d }, d, out);
}

fn finished<const P: usize>(
    unit: Unit,
    (a, b): (&impl Left, &Pairs),
    finish: &impl Finish<P>,
    columns: usize,
    out: &mut [f32],
) {
    each(tasks(a, columns, out), &|_, task: Task| {
        vectorised(Compute {
            unit,
            sides: (a, b),
            finish,
            task,
        });
    });
}

/// A strip and some panels of the output.
pub(super) struct Task<'a> {
    pub(super) strip: usize,
    pub(super) panels: Range<usize>,
    /// The number of the first row of each part, and the panels' columns of its rows.
    parts: Vec<(usize, &'a mut [f32])>,
    /// Rows per part.
    height: usize,
    /// Columns of the panels.
    width: usize,
}

/// Splits an output by strips and, if they are few, also by panels.
pub(super) fn tasks<'a>(a: &impl Left, columns: usize, out: &'a mut [f32]) -> Vec<Task<'a>> {
    let (segment, panels) = (a.segment(), columns.div_ceil(COLUMNS));
    let wanted = TASKS * rayon::current_num_threads();
    let groups = wanted.div_ceil(a.strips().max(1)).clamp(1, panels.max(1));
    let group = panels.div_ceil(groups).max(1);
    let cuts: Vec<_> = (0..panels).step_by(group).collect();
    let height = if cuts.len() == 1 { segment } else { 1 };
    let width = |start: usize| columns.min((start + group) * COLUMNS) - start * COLUMNS;
    let task = |i: usize| {
        let start = cuts[i % cuts.len()];
        Task {
            strip: i / cuts.len(),
            panels: start..panels.min(start + group),
            parts: Vec::new(),
            height,
            width: width(start),
        }
    };
    let mut tasks: Vec<_> = (0..a.strips() * cuts.len()).map(task).collect();
    for (i, rows) in out.chunks_mut((segment * columns).max(1)).enumerate() {
        let tasks = &mut tasks[a.strip_of(i) * cuts.len()..][..cuts.len()];
        for (j, mut rest) in rows.chunks_mut(height * columns).enumerate() {
            for task in &mut *tasks {
                let end = if cuts.len() == 1 {
                    rest.len()
                } else {
                    task.width
                };
                let (part, tail) = rest.split_at_mut(end);
                task.parts.push((i * segment + j * height, part));
                rest = tail;
            }
        }
    }
    tasks
}

/// Where a row of a strip goes. It is found once for all panels: divisions are slow.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The part of the task, and the first value of the row in it.
    part: usize,
    at: usize,
    row: OutputRow,
}

impl Task<'_> {
    /// The place of a row of the strip.
    pub(super) fn place(&self, row: u32, group: impl Fn(usize) -> usize) -> Option<Place> {
        let (part, within) = (row as usize / self.height, row as usize % self.height);
        let index = self.parts.get(part).filter(|_| row != NOWHERE)?.0 + within;
        Some(Place {
            part,
            at: within * self.width,
            row: OutputRow {
                index,
                group: group(index),
            },
        })
    }

    /// Begins to fetch a panel's columns at places, and what will be added to them.
    #[inline(always)]
    pub(super) fn prefetch<'p, const P: usize>(
        &self,
        places: impl Iterator<Item = &'p Place>,
        panel: usize,
        finish: &impl Finish<P>,
    ) {
        let from = (panel - self.panels.start) * COLUMNS;
        for place in places {
            let out = &self.parts[place.part].1[place.at + from..];
            if let Some(columns) = out.first_chunk::<COLUMNS>() {
                prefetch(columns);
            }
            finish.prefetch(place.row, panel * COLUMNS);
        }
    }

    /// The columns of a panel at a place, and its row.
    #[inline(always)]
    pub(super) fn out(&mut self, place: &Place, panel: usize) -> (&mut [f32], OutputRow) {
        let from = (panel - self.panels.start) * COLUMNS;
        let end = self.width.min(from + COLUMNS);
        let out = &mut self.parts[place.part].1[place.at..];
        (&mut out[from..end], place.row)
    }
}

struct Compute<'a, 'b, A, F, const P: usize> {
    unit: Unit,
    sides: (&'a A, &'a Pairs),
    finish: &'a F,
    task: Task<'b>,
}

impl<A: Left, F: Finish<P>, const P: usize> WithSimd for Compute<'_, '_, A, F, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let session = Session::new(self.unit);
        let strip = self.sides.0.strip(s, self.task.strip);
        let rows = strip.tiles.iter().flat_map(|tile| tile.rows);
        let place = |row| self.task.place(row, |row| self.finish.group(row));
        let places: Vec<_> = rows.map(place).collect();
        let mut sums: [Sums; P] = std::array::from_fn(|_| Sums::default());
        for i in self.task.panels.clone() {
            let panels = self.finish.panels(i).map(|panel| self.sides.1.panel(panel));
            for (tiles, places) in strip.tiles.chunks(2).zip(places.chunks(2 * ROWS)) {
                // By tiles a product is over sooner than so many lines come.
                if let Unit::Dots(_) = self.unit {
                    self.task.prefetch(places.iter().flatten(), i, self.finish);
                }
                let rows = (tiles[0].first, tiles.get(1).map(|tile| tile.first));
                let last = places.iter().rposition(Option::is_some);
                let count = last.map_or(0, |last| last + 1);
                for (b, sums) in panels.iter().zip(&mut sums) {
                    let operands = Operands {
                        a: &strip.lines,
                        rows,
                        count,
                        steps: &strip.steps,
                        b,
                    };
                    session.multiply(operands, Start::Zero, sums);
                }
                self.write(s, places, i, &sums);
            }
        }
    }
}

impl<A: Left, F: Finish<P>, const P: usize> Compute<'_, '_, A, F, P> {
    /// Writes the sums of some rows to panel `i` of the output.
    #[inline(always)]
    fn write<S: Simd>(&mut self, s: S, places: &[Option<Place>], i: usize, sums: &[Sums; P]) {
        for (j, place) in places.iter().enumerate() {
            if let Some(place) = place {
                let (out, row) = self.task.out(place, i);
                let sums = sums.each_ref().map(|sums| &sums.0[j]);
                self.finish.write(s, sums, row, i * COLUMNS, out);
            }
        }
    }
}

/// Rows of a matrix.
pub(in crate::kernel) struct Rows<'a> {
    matrix: Matrix<'a>,
    count: usize,
    height: usize,
}

impl<'a> Rows<'a> {
    /// The first rows of a matrix, in strips of about the same height.
    pub(in crate::kernel) fn new(matrix: Matrix<'a>, rows: usize) -> Self {
        let fit = STRIP / matrix.terms.div_ceil(TERMS).max(1) / (2 * ROWS) * (2 * ROWS);
        let strips = rows.div_ceil(fit.clamp(2 * ROWS, TALLEST)).max(1);
        let height = rows.div_ceil(strips).next_multiple_of(2 * ROWS);
        Self::of_height(matrix, rows, height.max(2 * ROWS))
    }

    /// The same in strips of `height` rows.
    pub(super) fn of_height(matrix: Matrix<'a>, rows: usize, height: usize) -> Self {
        Self {
            matrix,
            count: rows,
            height,
        }
    }
}

impl Left for Rows<'_> {
    fn segment(&self) -> usize {
        self.height
    }

    fn strips(&self) -> usize {
        self.count.div_ceil(self.height)
    }

    fn strip_of(&self, segment: usize) -> usize {
        segment
    }

    #[inline(always)]
    fn strip<S: Simd>(&self, _: S, strip: usize) -> Strip {
        let first = strip * self.height;
        let rows = (self.count - first).min(self.height);
        let (matrix, height) = (self.matrix, rows.next_multiple_of(ROWS));
        let steps = matrix.terms.div_ceil(TERMS);
        let mut lines = Scratch::new(steps * height);
        for row in 0..rows {
            let values = &matrix.values[(first + row) * matrix.stride..][..matrix.terms];
            round_row(values, &mut lines, (row, height));
        }
        Strip {
            lines,
            steps: Steps::at((0..steps).map(|step| step * height)),
            tiles: Tile::of_rows(rows),
        }
    }
}

/// Overwrites rows `rows` of a product, `out`, on this thread.
pub(in crate::kernel) fn compute_rows(
    unit: Unit,
    (a, b): (Matrix, &Pairs),
    first: usize,
    out: Vec<&mut [f32]>,
) {
    let (height, columns) = (out.len(), b.columns());
    let matrix = Matrix {
        values: &a.values[first * a.stride..],
        ..a
    };
    let finish = Added::new(Addends::default(), height, columns);
    let a = Rows {
        matrix,
        count: height,
        height,
    };
    let task = Task {
        strip: 0,
        panels: 0..b.panels(),
        parts: out.into_iter().enumerate().collect(),
        height: 1,
        width: columns,
    };
    vectorised(Compute {
        unit,
        sides: (&a, b),
        finish: &finish,
        task,
    });
}

/// The same product by a unit and in f32, on this thread, for measurements.
pub(super) fn trials(unit: Unit) -> (impl FnMut(), impl FnMut()) {
    let (rows, terms, columns) = (96, 320, 320);
    let values = vec![1f32; rows.max(terms) * columns.max(terms)];
    let (left, right) = (values.clone(), values);
    let exact = Matrix::contiguous(&right, columns).packed(terms);
    let rounded = Pairs::of_rows(Matrix::contiguous(&right, columns), terms);
    let (again, mut out) = (left.clone(), vec![0f32; rows * columns]);
    let mut other = out.clone();
    let by_unit = move || {
        let a = Matrix::contiguous(&left, terms);
        compute_rows(unit, (a, &rounded), 0, out.chunks_mut(columns).collect());
    };
    let in_f32 = move || {
        let a = Matrix::contiguous(&again, terms);
        let out = other.chunks_mut(columns).collect();
        gemm::Task::whole_rows(0..rows, &exact, out).compute(&a, &exact);
    };
    (by_unit, in_f32)
}
