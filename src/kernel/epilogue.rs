//! Epilogues: operations fused with a product.

use candle_core::{Result, Shape, Tensor, bail};

use super::{gemm::ROWS, op, parts::each_part};

/// Optional operations fused with a linear layer.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to every row of the output (outputs).
    pub bias: Option<&'a Tensor>,
    /// Added to the output, of the same shape.
    pub residual: Option<&'a Tensor>,
}

/// Optional operations fused with a convolution.
#[derive(Clone, Copy, Default)]
pub struct ConvEpilogue<'a> {
    /// Height and width to which the input is upsampled first, by nearest neighbour.
    pub upsample: Option<(usize, usize)>,
    /// Added to every pixel of the output (outputs).
    pub bias: Option<&'a Tensor>,
    /// Added to every pixel of a picture (b, outputs).
    pub shift: Option<&'a Tensor>,
    /// Added to the output, of the same shape.
    pub residual: Option<&'a Tensor>,
}

impl<'a> Epilogue<'a> {
    /// Only a bias.
    pub fn bias(bias: Option<&'a Tensor>) -> Self {
        let residual = None;
        Self { bias, residual }
    }

    /// Checks the shapes for an output of `shape` and calls `work` with the values. The bias
    /// may be (groups, outputs), each for an equal part of the rows.
    pub(super) fn with(self, shape: &Shape, work: impl FnOnce(Addends)) -> Result<()> {
        let columns = *shape.dims().last().unwrap_or(&1);
        let rows = shape.elem_count() / columns.max(1);
        let fits = |bias: &Tensor| {
            let groups = bias.elem_count() / columns.max(1);
            bias.dims().last() == Some(&columns) && rows.is_multiple_of(groups.max(1))
        };
        let Self { bias, residual } = self;
        if !bias.is_none_or(fits) || residual.is_some_and(|x| x.shape() != shape) {
            bail!("a bias or residual does not match an output of {shape:?}");
        }
        let none = op::tensor(vec![0.0; 0], 0)?;
        let values = [bias, residual].map(|x| x.unwrap_or(&none));
        op::with(values, |[bias_values, residual_values]| {
            work(Addends {
                bias: bias.map(|_| bias_values),
                residual: residual.map(|_| residual_values),
            });
            Ok(())
        })
    }
}

impl<'a> ConvEpilogue<'a> {
    /// Only a bias.
    pub fn bias(bias: Option<&'a Tensor>) -> Self {
        Self {
            bias,
            ..Self::default()
        }
    }

    /// Whether any of the tensors is tracked.
    pub fn is_tracked(&self) -> bool {
        let tensors = [self.bias, self.shift, self.residual];
        tensors.into_iter().flatten().any(Tensor::track_op)
    }

    /// As [`Epilogue::with`], with the sum of bias and shift.
    pub(super) fn with(self, shape: &Shape, work: impl FnOnce(Addends)) -> Result<()> {
        let bias = match (self.shift, self.bias) {
            (Some(shift), Some(bias)) => Some(&shift.broadcast_add(bias)?), // (b, outputs)
            (shift, bias) => shift.or(bias),
        };
        let residual = self.residual;
        Epilogue { bias, residual }.with(shape, work)
    }
}

/// The values that an epilogue adds.
#[derive(Clone, Copy, Default)]
pub(super) struct Addends<'a> {
    /// (groups, columns), each for an equal part of the output's rows.
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
}

impl Addends<'_> {
    /// Adds bias and residual to a finished output.
    pub(super) fn add_to(self, out: &mut [f32], columns: usize) {
        let rows = out.len() / columns;
        each_part(out, ROWS * columns, &|i, part| {
            self.add_to_rows(part, columns, i * ROWS, rows);
        });
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
