//! The weights of a layer: read as they are stored, with an adapter's low-rank product added,
//! rounded and packed in one pass over memory.

use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};

use super::{
    lines::{COLUMNS, Line, Operands, ROWS, Start, Steps, Sums, TERMS, line, round_row},
    pairs::{BLOCK, Pairs},
    unit::{Session, Unit},
};
use crate::kernel::{
    gemm::Matrix, op, pages::unset, parts::each_chunk, scratch::Scratch, simd::vectorised,
    stored::StoredValues,
};

/// The shape of the weights of a layer.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct WeightShape {
    pub outputs: usize,
    pub inputs: usize,
    /// 1 for a linear layer, k k for a convolution.
    pub taps: usize,
}

impl WeightShape {
    /// Values per output.
    fn width(self) -> usize {
        self.inputs * self.taps
    }

    /// Groups of 32 inputs.
    fn groups(self) -> usize {
        self.inputs.div_ceil(TERMS)
    }
}

/// The weights of a layer as they are read.
#[derive(Clone, Copy, Debug)]
pub struct MergedWeight<'a> {
    /// As they are stored.
    pub values: StoredValues<'a>,
    /// The factors of a product that is added: up (outputs, rank) and down (rank, values per
    /// output), f32, contiguous and on a CPU.
    pub factors: Option<[&'a Tensor; 2]>,
}

impl<'a> From<StoredValues<'a>> for MergedWeight<'a> {
    fn from(values: StoredValues<'a>) -> Self {
        let factors = None;
        Self { values, factors }
    }
}

impl Pairs {
    /// Packs the weights of a layer: of 32 inputs all taps, one after another. Products of
    /// factors are of bf16; their sums and the weights are added in f32 and rounded once.
    pub(in crate::kernel) fn of_weights(
        unit: Unit,
        stored: MergedWeight,
        shape: WeightShape,
    ) -> Result<Self> {
        let values = stored.values;
        values.check(shape.outputs * shape.width())?;
        let product =
            |factors: [&Tensor; 2]| op::with(factors, |factors| Product::new(unit, shape, factors));
        let product = stored.factors.map(product).transpose()?;
        let (groups, of_group) = (shape.groups(), shape.taps * BLOCK);
        let panels = shape.outputs.div_ceil(COLUMNS);
        let mut lines = unset(panels * groups * of_group);
        each_chunk(&mut lines, of_group, &|i, lines| {
            vectorised(Part {
                values,
                shape,
                product: product.as_ref(),
                panel: i / groups,
                group: i % groups,
                lines,
            });
        });
        Ok(Self::of_lines(lines, groups * shape.taps, shape.outputs))
    }
}

/// A low-rank product that is computed where it is added.
struct Product {
    unit: Unit,
    /// Every row of up.
    up: Scratch<Line>,
    steps: Steps,
    down: Pairs,
}

impl Product {
    fn new(unit: Unit, shape: WeightShape, [up, down]: [&[f32]; 2]) -> Result<Self> {
        let rank = up.len() / shape.outputs.max(1);
        if up.len() != shape.outputs * rank || down.len() != rank * shape.width() {
            bail!(
                "factors of {} and {} values do not match",
                up.len(),
                down.len()
            );
        }
        let height = shape.outputs.next_multiple_of(2 * ROWS);
        let steps = rank.div_ceil(TERMS);
        let mut lines = Scratch::new(steps * height);
        lines.fill(Line::default());
        vectorised(RoundRows(Matrix::contiguous(up, rank), &mut lines, height));
        Ok(Self {
            unit,
            up: lines,
            steps: Steps::at((0..steps).map(|step| step * height)).of_terms(rank),
            down: Pairs::of_rows(Matrix::contiguous(down, shape.width()), rank),
        })
    }
}

/// Rounds all rows of a matrix.
struct RoundRows<'a>(Matrix<'a>, &'a mut [Line], usize);

impl WithSimd for RoundRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self(matrix, lines, height) = self;
        for (row, values) in matrix.values.chunks(matrix.terms.max(1)).enumerate() {
            round_row(values, lines, (row, height));
        }
    }
}

/// 32 outputs and 32 inputs of a layer, and the lines of a block for each tap.
struct Part<'a> {
    values: StoredValues<'a>,
    shape: WeightShape,
    product: Option<&'a Product>,
    panel: usize,
    group: usize,
    lines: &'a mut [Line],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let mut values = Scratch::new(COLUMNS * self.width());
        self.read(&mut values);
        if let Some(product) = self.product {
            self.add(product, &mut values);
        }
        self.pack(&values);
    }
}

impl Part<'_> {
    /// Values of an output in the group.
    fn width(&self) -> usize {
        TERMS * self.shape.taps
    }

    /// Reads the values (32 outputs, 32 inputs, taps); those that do not exist are zeros.
    #[inline(always)]
    fn read(&self, values: &mut [f32]) {
        let (width, all) = (self.width(), self.shape.width());
        let first = self.group * width;
        let count = width.min(all - first);
        let inside = COLUMNS.min(self.shape.outputs - self.panel * COLUMNS);
        let (rows, outside) = values.split_at_mut(inside * width);
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            let at = (self.panel * COLUMNS + i) * all + first;
            let (row, rest) = row.split_at_mut(count);
            self.values.widen(at..at + count, row);
            rest.fill(0.0);
        }
        outside.fill(0.0);
    }

    /// Adds the product.
    #[inline(always)]
    fn add(&self, product: &Product, values: &mut [f32]) {
        let session = Session::new(product.unit);
        let (width, taps) = (self.width(), self.shape.taps);
        let panels = self.group * taps..product.down.panels().min((self.group + 1) * taps);
        let first = self.panel * COLUMNS;
        let mut sums = Sums::default();
        for (i, panel) in panels.enumerate() {
            let operands = Operands {
                a: &product.up,
                rows: (first, Some(first + ROWS)),
                count: 2 * ROWS,
                steps: &product.steps,
                b: product.down.panel(panel),
            };
            session.multiply(operands, Start::Zero, &mut sums);
            for (row, sums) in values.chunks_exact_mut(width).zip(&sums.0) {
                let row = &mut row[i * COLUMNS..][..COLUMNS];
                row.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
            }
        }
    }

    /// Rounds and packs the values.
    #[inline(always)]
    fn pack(&mut self, values: &[f32]) {
        let (width, taps) = (self.width(), self.shape.taps);
        for (tap, block) in self.lines.chunks_exact_mut(BLOCK).enumerate() {
            for (half, lines) in block.chunks_exact_mut(ROWS).enumerate() {
                let mut rows = [Line::default(); ROWS];
                for (i, row) in rows.iter_mut().enumerate() {
                    let values = &values[(half * ROWS + i) * width..][..width];
                    *row = match taps {
                        1 => line(values.first_chunk().expect("32 values")),
                        _ => line(&every(taps, &values[tap..])),
                    };
                }
                for (pair, line) in lines.iter_mut().enumerate() {
                    for (slot, row) in line.0.iter_mut().zip(&rows) {
                        *slot = row.0[pair];
                    }
                }
            }
        }
    }
}

/// 32 values that are `stride` apart.
#[inline(always)]
fn every(stride: usize, values: &[f32]) -> [f32; TERMS] {
    let mut terms = [0.0; TERMS];
    for (term, value) in terms.iter_mut().zip(values.iter().step_by(stride)) {
        *term = *value;
    }
    terms
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use half::bf16;

    use super::*;
    use crate::kernel::{bf16::tests::units, stored::with_values};

    /// Whole numbers up to `limit`, in no order, times `scale`.
    fn tensor(shape: &[usize], limit: usize, scale: f32) -> Tensor {
        let number = |i: usize| (i * 37 + i * i) % (2 * limit + 1);
        let value = |i| scale * (number(i) as f32 - limit as f32);
        let values = (0..shape.iter().product()).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        x.to_vec1().unwrap()
    }

    #[test]
    fn weights_of_every_type_are_merged_and_rounded_once() {
        for (outputs, inputs, taps, rank) in [
            (1, 1, 1, 1),
            (40, 70, 1, 9),
            (33, 32, 9, 64),
            (7, 45, 9, 3),
            (64, 100, 1, 33),
        ] {
            let shape = WeightShape {
                outputs,
                inputs,
                taps,
            };
            let [up, down] =
                [&[outputs, rank][..], &[rank, inputs * taps]].map(|shape| tensor(shape, 3, 0.25));
            let product = values(&up.matmul(&down).unwrap());
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let weight = tensor(&[outputs, inputs * taps], 500, 1.0 / 512.0);
                let weight = weight.to_dtype(dtype).unwrap();
                let stored = values(&weight);
                for (unit, factors) in units()
                    .into_iter()
                    .flat_map(|unit| [(unit, None), (unit, Some([&up, &down]))])
                {
                    let pairs = with_values(&weight, |values| {
                        Pairs::of_weights(unit, MergedWeight { values, factors }, shape)
                    });
                    let pairs = pairs.unwrap();
                    for (i, stored) in stored.iter().enumerate() {
                        let (output, input, tap) = (i / inputs / taps, i / taps % inputs, i % taps);
                        let found = pairs.value(input / TERMS * taps + tap, input % TERMS, output);
                        let delta = factors.map_or(0.0, |_| product[i]);
                        let expected = bf16::from_f32(stored + delta).to_f32();
                        assert_eq!(
                            found, expected,
                            "{unit:?} {dtype:?} {outputs} {inputs}: {i}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn weights_and_factors_of_other_shapes_are_refused() {
        let weight = tensor(&[4, 6], 3, 1.0);
        let (up, down) = (tensor(&[4, 2], 3, 1.0), tensor(&[2, 5], 3, 1.0));
        let packed = |outputs, factors| {
            with_values(&weight, |values| {
                let shape = WeightShape {
                    outputs,
                    inputs: 6,
                    taps: 1,
                };
                Pairs::of_weights(Unit::Emulated, MergedWeight { values, factors }, shape)
            })
        };
        assert!(packed(4, None).is_ok());
        assert!(packed(5, None).is_err());
        assert!(packed(4, Some([&up, &down])).is_err());
    }
}
