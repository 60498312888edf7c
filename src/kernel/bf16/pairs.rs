//! The right side of a product: pairs of terms, rounded to bf16 and packed once.

use std::ops::Range;

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use pulp::{Simd, WithSimd};

use super::lines::{COLUMNS, Line, ROWS, TERMS, rounded, widened};
use crate::kernel::{pages::room, parts::fill, simd::vectorised};

/// A matrix of steps of 32 terms and panels of 32 columns.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Pairs {
    columns: usize,
    steps: usize,
    /// Panel by panel, and in a panel step by step.
    blocks: Vec<Block>,
}

/// A step of a panel: 16 lines with the pairs of 16 columns, and 16 of the next 16.
type Block = [Line; 2 * ROWS];

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
            CpuStorage::F32(v) => Self::pack(&v[start..], (steps, columns), of),
            CpuStorage::F16(v) => Self::pack(&v[start..], (steps, columns), of),
            CpuStorage::BF16(v) => Self::pack(&v[start..], (steps, columns), of),
            _ => bail!("weights of type {:?} cannot be packed", weight.dtype()),
        })
    }

    /// Packs values on this computer's threads.
    pub(in crate::kernel) fn pack<T: Round>(
        values: &[T],
        (steps, columns): (usize, usize),
        of: impl Fn(usize, usize) -> Terms + Sync,
    ) -> Self {
        let count = columns.div_ceil(COLUMNS) * steps;
        let mut blocks = room(count);
        fill(&mut blocks, count, &|i| {
            let (panel, step) = (i / steps, i % steps);
            let columns = panel * COLUMNS..columns.min((panel + 1) * COLUMNS);
            let terms = |column| of(step, column);
            vectorised(PackBlock(values, columns, terms))
        });
        Self {
            columns,
            steps,
            blocks,
        }
    }

    /// Number of columns.
    pub(in crate::kernel) fn columns(&self) -> usize {
        self.columns
    }

    /// Number of steps.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// The lines of a panel, step by step.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &[Line] {
        self.blocks[panel * self.steps..][..self.steps].as_flattened()
    }

    /// A value as it was rounded.
    pub(in crate::kernel) fn value(&self, step: usize, term: usize, column: usize) -> f32 {
        let half = column % COLUMNS / ROWS;
        let lines = &self.blocks[column / COLUMNS * self.steps + step][half * ROWS..];
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
    /// The terms rounded, and zeros.
    #[inline(always)]
    fn read<T: Round>(self, values: &[T]) -> [u16; TERMS] {
        let mut terms = [0; TERMS];
        let values = &values[self.first..];
        if self.stride == 1 {
            for (slot, x) in terms.iter_mut().zip(&values[..self.count]) {
                *slot = x.bits();
            }
        } else {
            let values = values.iter().step_by(self.stride).take(self.count);
            for (slot, x) in terms.iter_mut().zip(values) {
                *slot = x.bits();
            }
        }
        terms
    }
}

/// Packs some columns of a step: values, columns, and the terms of each.
struct PackBlock<'a, T, F>(&'a [T], Range<usize>, F);

impl<T: Round, F: Fn(usize) -> Terms> WithSimd for PackBlock<'_, T, F> {
    type Output = Block;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Block {
        let Self(values, columns, terms) = self;
        let mut block = [Line::default(); 2 * ROWS];
        for (i, column) in columns.enumerate() {
            let pairs: [u32; TERMS / 2] = pulp::bytemuck::cast(terms(column).read::<T>(values));
            for (line, pair) in block[i / ROWS * ROWS..].iter_mut().zip(pairs) {
                line.0[i % ROWS] = pair;
            }
        }
        block
    }
}

/// A type whose values are rounded to bf16.
pub(in crate::kernel) trait Round: Copy + Sync {
    /// The bits of the nearest bf16.
    fn bits(self) -> u16;
}

impl Round for f32 {
    #[inline(always)]
    fn bits(self) -> u16 {
        (rounded(self) >> 16) as u16
    }
}

impl Round for f16 {
    #[inline(always)]
    fn bits(self) -> u16 {
        self.to_f32().bits()
    }
}

impl Round for bf16 {
    #[inline(always)]
    fn bits(self) -> u16 {
        self.to_bits()
    }
}
