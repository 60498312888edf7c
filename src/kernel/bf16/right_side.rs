//! The right side of a product in either arithmetic.

use candle_core::{Result, bail};

use super::{Arithmetic, MergedWeight, Pairs, Rows, Unit, WeightShape, compute_rows, product};
use crate::kernel::{
    epilogue::Addends,
    gemm::{self, Matrix, Task, packed::PackedMatrix},
};

/// A packed matrix.
#[derive(Debug)]
pub(in crate::kernel) enum RightSide {
    F32(PackedMatrix),
    Bf16(Unit, Pairs),
}

impl From<PackedMatrix> for RightSide {
    fn from(packed: PackedMatrix) -> Self {
        Self::F32(packed)
    }
}

impl RightSide {
    /// Packs the weights of a layer, whose terms are tap by tap in f32, and of 32 inputs all taps
    /// in bf16. In f32 nothing can be added to them.
    pub(in crate::kernel) fn of_weights(
        arithmetic: Arithmetic,
        weight: MergedWeight,
        shape: WeightShape,
    ) -> Result<Self> {
        let WeightShape {
            outputs,
            inputs,
            taps,
        } = shape;
        match (arithmetic, weight.factors) {
            (Arithmetic::Bf16(unit), _) => {
                Pairs::of_weights(unit, weight, shape).map(|pairs| Self::Bf16(unit, pairs))
            }
            (Arithmetic::F32, Some(_)) => bail!("weights in f32 are merged before they are packed"),
            (Arithmetic::F32, None) => {
                weight.values.check(outputs * inputs * taps)?;
                let matrix = (taps * inputs, outputs);
                let pointwise = |input, output| output * inputs + input;
                let place = |term, output| pointwise(term % inputs, output) * taps + term / inputs;
                Ok(Self::F32(match taps {
                    1 => PackedMatrix::new(weight.values, matrix, pointwise), // no divisions
                    _ => PackedMatrix::new(weight.values, matrix, place),
                }))
            }
        }
    }

    /// Packs the first rows of a matrix.
    pub(in crate::kernel) fn of(arithmetic: Arithmetic, matrix: Matrix, rows: usize) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self::F32(matrix.packed(rows)),
            Arithmetic::Bf16(unit) => Self::Bf16(unit, Pairs::of_rows(matrix, rows)),
        }
    }

    /// Packs the transpose of the first rows of a matrix.
    pub(in crate::kernel) fn transposed(
        arithmetic: Arithmetic,
        matrix: Matrix,
        rows: usize,
    ) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self::F32(matrix.packed_transposed(rows)),
            Arithmetic::Bf16(unit) => Self::Bf16(unit, Pairs::of_transposed(matrix, rows)),
        }
    }

    /// Number of columns.
    pub(in crate::kernel) fn columns(&self) -> usize {
        match self {
            Self::F32(packed) => packed.columns(),
            Self::Bf16(_, pairs) => pairs.columns(),
        }
    }

    /// `out` (rows, columns) = a times this + addends, on all threads.
    pub(in crate::kernel) fn product(&self, a: Matrix, addends: Addends, out: &mut [f32]) {
        match self {
            Self::F32(packed) => gemm::product(&a, packed, addends, out),
            Self::Bf16(unit, pairs) => {
                let rows = out.len() / pairs.columns().max(1);
                product(*unit, &Rows::new(a, rows), pairs, addends, out);
            }
        }
    }

    /// Overwrites the rows of the product from row `first` on, on this thread.
    pub(in crate::kernel) fn compute(&self, a: Matrix, first: usize, out: Vec<&mut [f32]>) {
        match self {
            Self::F32(packed) => {
                let rows = first..first + out.len();
                Task::whole_rows(rows, packed, out).compute(&a, packed);
            }
            Self::Bf16(unit, pairs) => compute_rows(*unit, (a, pairs), first, out),
        }
    }
}
