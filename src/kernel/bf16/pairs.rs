//! The right side of a product: pairs of terms, rounded to bf16 and packed once.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::lines::{COLUMNS, Line, ROWS, TERMS, line, widened};
use crate::kernel::parts::map;

/// A matrix of steps of 32 terms and panels of 32 columns: for each panel and step, 16
/// lines with the pairs of 16 columns, and 16 of the next 16.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Pairs {
    columns: usize,
    panels: Vec<Vec<Line>>,
}

/// Lines of a step of a panel.
const STEP: usize = 2 * ROWS;

impl Pairs {
    /// Packs weights on a CPU in a matrix of `steps` and `columns`. `of(step, column)` is the
    /// index of the first of a step's terms in the contiguous weights, how far apart they
    /// are, and how many, up to 32.
    pub(in crate::kernel) fn new(
        weight: &Tensor,
        (steps, columns): (usize, usize),
        of: impl Fn(usize, usize) -> Terms + Sync,
    ) -> Result<Self> {
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("packing requires weights on a CPU");
        };
        let start = layout.start_offset();
        Ok(match storage {
            CpuStorage::F32(v) => Self::pack(&v[start..], (steps, columns), of, |x| x),
            CpuStorage::F16(v) => Self::pack(&v[start..], (steps, columns), of, f16::to_f32),
            CpuStorage::BF16(v) => Self::pack(&v[start..], (steps, columns), of, bf16::to_f32),
            _ => bail!("weights of type {:?} cannot be packed", weight.dtype()),
        })
    }

    /// Packs values on this computer's threads.
    pub(in crate::kernel) fn pack<T: Copy + Sync>(
        values: &[T],
        (steps, columns): (usize, usize),
        of: impl Fn(usize, usize) -> Terms + Sync,
        to_f32: impl Fn(T) -> f32 + Sync,
    ) -> Self {
        let panel = |panel| {
            let mut lines = vec![Line::default(); steps * STEP];
            for (i, lines) in lines.chunks_mut(ROWS).enumerate() {
                let (step, first) = (i / 2, panel * COLUMNS + i % 2 * ROWS);
                for column in first..columns.min(first + ROWS) {
                    let terms = of(step, column).read(values, &to_f32);
                    for (slot, pair) in lines.iter_mut().zip(line(&terms).0) {
                        slot.0[column - first] = pair;
                    }
                }
            }
            lines
        };
        let panels = map((0..columns.div_ceil(COLUMNS)).collect(), &|_, i| panel(i));
        Self { columns, panels }
    }

    /// Number of columns.
    pub(in crate::kernel) fn columns(&self) -> usize {
        self.columns
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.panels.len()
    }

    /// The lines of a panel, step by step.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &[Line] {
        &self.panels[panel]
    }

    /// A value as it was rounded.
    pub(in crate::kernel) fn value(&self, step: usize, term: usize, column: usize) -> f32 {
        let half = column % COLUMNS / ROWS;
        let lines = &self.panel(column / COLUMNS)[step * STEP + half * ROWS..];
        widened(lines[term / 2].0[column % ROWS])[term % 2]
    }
}

/// Some terms of a column.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Terms {
    pub first: usize,
    /// The distance between two.
    pub stride: usize,
    pub count: usize,
}

impl Terms {
    /// The terms in f32, and zeros.
    #[inline(always)]
    fn read<T: Copy>(self, values: &[T], to_f32: impl Fn(T) -> f32) -> [f32; TERMS] {
        let mut terms = [0.0; TERMS];
        let values = &values[self.first..];
        if self.stride == 1 {
            for (slot, x) in terms.iter_mut().zip(&values[..self.count]) {
                *slot = to_f32(*x);
            }
        } else {
            let values = values.iter().step_by(self.stride).take(self.count);
            for (slot, x) in terms.iter_mut().zip(values) {
                *slot = to_f32(*x);
            }
        }
        terms
    }
}
