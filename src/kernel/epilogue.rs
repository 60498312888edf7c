//! Epilogues: operations fused with a product.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{gemm::ROWS, op};

/// Optional operations fused with a convolution or a linear layer, with tensors or, in
/// the kernels, their values.
pub struct Epilogue<'a, T: ?Sized = Tensor> {
    /// Added to every row of the output (outputs).
    pub bias: Option<&'a T>,
    /// Added to every pixel of a picture (b, outputs).
    pub shift: Option<&'a T>,
    /// Added to the output, of the same shape.
    pub residual: Option<&'a T>,
    /// Height and width to which the input is upsampled first, by nearest neighbour.
    pub upsample: Option<(usize, usize)>,
}

impl<T: ?Sized> Clone for Epilogue<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Epilogue<'_, T> {}

impl<T: ?Sized> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self {
            bias: None,
            shift: None,
            residual: None,
            upsample: None,
        }
    }
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// No activation.
    Identity,
    /// x sigmoid(x) (arXiv 1702.03118).
    Silu,
    /// The exact Gaussian error linear unit (arXiv 1606.08415).
    Gelu,
    /// x sigmoid(1.702 x), CLIP's approximation of GELU.
    QuickGelu,
}

impl<'a, T: ?Sized> Epilogue<'a, T> {
    /// Only a bias.
    pub fn bias(bias: Option<&'a T>) -> Self {
        Self {
            bias,
            ..Self::default()
        }
    }
}

impl Epilogue<'_> {
    /// Whether any of the tensors is tracked.
    pub fn is_tracked(&self) -> bool {
        let tensors = [self.bias, self.shift, self.residual];
        tensors.into_iter().flatten().any(Tensor::track_op)
    }

    /// Checks the shapes for an output of `shape` and calls `work` with the values; bias
    /// (outputs) and shift (b, outputs) are summed.
    pub(super) fn with(&self, shape: &Shape, work: impl FnOnce(Epilogue<[f32]>)) -> Result<()> {
        let summed = match (self.shift, self.bias) {
            (Some(shift), Some(bias)) => Some(&shift.broadcast_add(bias)?), // (b, outputs)
            (shift, bias) => shift.or(bias),
        };
        let columns = *shape.dims().last().unwrap_or(&1);
        let rows = shape.elem_count() / columns.max(1);
        let fits = |bias: &Tensor| {
            let groups = bias.elem_count() / columns.max(1);
            bias.dims().last() == Some(&columns) && rows.is_multiple_of(groups.max(1))
        };
        if summed.is_some_and(|bias| !fits(bias))
            || self.residual.is_some_and(|x| x.shape() != shape)
        {
            bail!("a bias or residual does not match an output of {shape:?}");
        }
        let none = op::tensor(vec![0.0; 0], 0)?;
        op::with(
            [summed.unwrap_or(&none), self.residual.unwrap_or(&none)],
            |[bias, residual]| {
                work(Epilogue {
                    bias: summed.map(|_| bias),
                    residual: self.residual.map(|_| residual),
                    ..Epilogue::default()
                });
                Ok(())
            },
        )
    }
}

/// The biases are (groups, columns), each for an equal part of the output's rows.
impl Epilogue<'_, [f32]> {
    /// Adds bias and residual to a finished output.
    pub(super) fn add_to(self, out: &mut [f32], columns: usize) {
        let rows = out.len() / columns;
        out.par_chunks_mut(ROWS * columns)
            .enumerate()
            .for_each(|(i, part)| self.add_to_rows(part, columns, i * ROWS, rows));
    }

    /// Adds them to the part of an output of `rows` rows that begins at row `first`.
    pub(super) fn add_to_rows(self, part: &mut [f32], columns: usize, first: usize, rows: usize) {
        for (i, out) in part.chunks_mut(columns).enumerate() {
            self.add_to_part(first + i, rows, 0, columns, out);
        }
    }

    /// Adds them to the columns from `from` on of one of `rows` rows.
    pub(super) fn add_to_part(
        self,
        row: usize,
        rows: usize,
        from: usize,
        columns: usize,
        out: &mut [f32],
    ) {
        if let Some(bias) = self.bias {
            let group = rows * columns / bias.len();
            add(out, &bias[row / group * columns + from..]);
        }
        if let Some(residual) = self.residual {
            add(out, &residual[row * columns + from..]);
        }
    }
}

fn add(out: &mut [f32], more: &[f32]) {
    out.iter_mut().zip(more).for_each(|(y, x)| *y += x);
}
