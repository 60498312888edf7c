//! Linear layers.

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Shape, Tensor, bail};

use super::{
    bf16::{
        Arithmetic, COLUMNS, FeedForward, MergedWeight, OuterSums, RightSide, Rows, TERMS,
        Transposed, WeightShape, linear_geglu as bf16_geglu,
    },
    elementwise::{gate, total::sum_rows},
    epilogue::{Addends, Epilogue},
    gemm::{Matrix, Task, outer::outer},
    op,
    pages::unset,
    parts::each_part,
    scratch::Scratch,
    stored::with_values,
};

/// The packed weights of a linear layer.
#[derive(Debug)]
pub struct PackedLinear {
    packed: RightSide,
    inputs: usize,
    adjoint: OnceLock<RightSide>,
}

impl PackedLinear {
    /// Packs weights (outputs, inputs) on a CPU, for products in f32.
    pub fn new(weight: &Tensor) -> Result<Self> {
        Self::packed(weight, Arithmetic::F32)
    }

    /// Packs weights (outputs, inputs) on a CPU.
    pub fn packed(weight: &Tensor, arithmetic: Arithmetic) -> Result<Self> {
        let shape = weight.dims2()?;
        with_values(weight, |values| Self::of(values.into(), shape, arithmetic))
    }

    /// Packs weights (outputs, inputs).
    pub fn of(
        weight: MergedWeight,
        (outputs, inputs): (usize, usize),
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let shape = WeightShape {
            outputs,
            inputs,
            taps: 1,
        };
        Ok(Self {
            packed: RightSide::of_weights(arithmetic, weight, shape)?,
            inputs,
            adjoint: OnceLock::new(),
        })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.packed.columns()
    }

    /// Whether [`linear_geglu`] is faster than two operations for this many rows.
    pub fn fuses_geglu(&self, rows: usize) -> bool {
        match self.packed {
            RightSide::F32(_) => rows >= GEGLU_ROWS * self.inputs,
            RightSide::Bf16(..) => (self.outputs() / 2).is_multiple_of(COLUMNS),
        }
    }

    /// Whether [`feed_forward`] with this first layer is faster than two operations for this
    /// many rows.
    pub fn begins_feed_forward(&self, rows: usize) -> bool {
        match &self.packed {
            RightSide::F32(_) => false,
            RightSide::Bf16(_, pairs) => self.fuses_geglu(rows) && FeedForward::pays(pairs, rows),
        }
    }

    /// The weights of the backward pass, packed on first use.
    fn adjoint(&self) -> &RightSide {
        let (outputs, inputs) = (self.outputs(), self.inputs());
        self.adjoint.get_or_init(|| match &self.packed {
            RightSide::F32(packed) => packed
                .rearranged((outputs, inputs), |output, input| (input, output))
                .into(),
            RightSide::Bf16(unit, pairs) => {
                let value = |i: usize| {
                    let (output, input) = (i / inputs, i % inputs);
                    pairs.value(input / TERMS, input % TERMS, output)
                };
                let values: Vec<_> = (0..outputs * inputs).map(value).collect();
                let weight = Matrix::contiguous(&values, inputs);
                RightSide::of(Arithmetic::Bf16(*unit), weight, outputs)
            }
        })
    }
}

/// Maps x (.., inputs) to (.., outputs) and adds bias and residual. All f32, contiguous
/// and on a CPU; differentiable in x and the residual.
pub fn linear(x: &Tensor, weight: &Arc<PackedLinear>, epilogue: Epilogue) -> Result<Tensor> {
    let (out, shape) = forward(x, (&weight.packed, weight.inputs), epilogue)?;
    let weight = weight.clone();
    let none = op::tensor(Vec::new(), 0)?;
    let arguments = [x, epilogue.residual.unwrap_or(&none)];
    let backward = move |[x, residual]: [&Tensor; 2], gradient: &Tensor| {
        Ok([
            op::if_tracked(x, || {
                multiplied(gradient, (weight.adjoint(), weight.outputs()), x)
            })?,
            residual.track_op().then(|| gradient.clone()),
        ])
    };
    op::tracked("linear", arguments, out, shape, backward)
}

/// Maps x (.., inputs) to two halves (.., 2 d) and multiplies the first by the
/// GELU of the second: (.., d). The halves are computed for a few rows at a time.
/// All f32, contiguous and on a CPU. Not differentiable: a tracked x is an error.
pub fn linear_geglu(
    x: &Tensor,
    weight: &Arc<PackedLinear>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, both) = (weight.inputs(), weight.outputs());
    let (shape, d) = (mapped(x, inputs, both / 2)?, both / 2);
    if x.track_op() || !both.is_multiple_of(2) {
        bail!("linear_geglu requires an untracked input and an even width");
    }
    let mut out = unset(shape.iter().product());
    let count = out.len() / d;
    op::with([x], |[x]| {
        let x = Matrix::contiguous(x, inputs);
        Epilogue::bias(bias).with(&(count, both).into(), |addends| {
            let packed = match &weight.packed {
                RightSide::F32(packed) => packed,
                RightSide::Bf16(unit, pairs) => {
                    let x = Rows::new(x, count);
                    return bf16_geglu(*unit, &x, pairs, addends.bias, &mut out);
                }
            };
            each_part(&mut out, HALVES * d, &|i, out| {
                let range = i * HALVES..i * HALVES + out.len() / d;
                let mut halves = Scratch::new(range.len() * both);
                let slots = halves.chunks_mut(both).collect();
                Task::whole_rows(range.clone(), packed, slots).compute(&x, packed);
                addends.add_to_rows(&mut halves, both, range.start, count);
                gate(&halves, d, out);
            });
        })
    })?;
    op::tensor(out, shape)
}

/// Maps x (.., inputs) by [`linear_geglu`] of `inner` to (.., d) and by `outer` to
/// (.., outputs), with biases, and adds the residual, without (.., d) in memory. All f32,
/// contiguous and on a CPU, with weights in bf16. Not differentiable: a tracked x is an error.
pub fn feed_forward(
    x: &Tensor,
    [inner, outer]: [&PackedLinear; 2],
    [inner_bias, bias]: [Option<&Tensor>; 2],
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    op::untracked("feed_forward", &[x])?;
    let (RightSide::Bf16(unit, first), RightSide::Bf16(_, second)) = (&inner.packed, &outer.packed)
    else {
        bail!("feed_forward requires weights in bf16");
    };
    let (both, width) = (inner.outputs(), outer.inputs);
    let fits = |bias: &Tensor| bias.dims() == [both];
    if both != 2 * width || !width.is_multiple_of(COLUMNS) || !inner_bias.is_none_or(fits) {
        bail!("feed_forward: {both} outputs of the first layer for {width} inputs of the second");
    }
    let shape = Shape::from(mapped(x, inner.inputs, outer.outputs())?);
    let mut out = unset(shape.elem_count());
    let none = op::tensor(Vec::new(), 0)?;
    op::with([x, inner_bias.unwrap_or(&none)], |[x, between]| {
        Epilogue { bias, residual }.with(&shape, |addends| {
            let network = FeedForward {
                unit: *unit,
                inner: first,
                inner_bias: inner_bias.map(|_| between),
                outer: second,
                addends,
            };
            network.compute(Matrix::contiguous(x, inner.inputs), &mut out);
        })
    })?;
    op::tensor(out, shape)
}

/// Minimum number of rows per input for which the fused kernel is faster in f32: it reads
/// the weights of both halves for each block of rows, to keep the halves out of memory.
const GEGLU_ROWS: usize = 8;

/// Rows whose two halves are computed at once.
const HALVES: usize = 48;

/// Maps x (.., inputs) by `weight` (outputs, inputs) and adds `bias` (outputs).
/// All f32, contiguous and on a CPU; differentiable in all arguments. The products of both
/// passes are in `arithmetic`.
pub fn linear_tracked(arithmetic: Arithmetic, [x, weight, bias]: [&Tensor; 3]) -> Result<Tensor> {
    let packed = PackedLinear::packed(weight, arithmetic)?.packed;
    let inputs = weight.dim(1)?;
    let (out, shape) = forward(x, (&packed, inputs), Epilogue::bias(Some(bias)))?;
    let backward = move |[x, weight, bias]: [&Tensor; 3], gradient: &Tensor| {
        Ok([
            op::if_tracked(x, || input_gradient(arithmetic, weight, gradient, x))?,
            op::if_tracked(weight, || weight_gradient(arithmetic, weight, gradient, x))?,
            op::if_tracked(bias, || sum_rows(gradient))?,
        ])
    };
    op::tracked("linear", [x, weight, bias], out, shape, backward)
}

fn input_gradient(
    arithmetic: Arithmetic,
    weight: &Tensor,
    gradient: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let packed = op::with([&weight.contiguous()?], |[weight]| {
        let weight = Matrix::contiguous(weight, inputs);
        Ok(RightSide::of(arithmetic, weight, outputs))
    })?;
    multiplied(gradient, (&packed, outputs), x)
}

fn weight_gradient(
    arithmetic: Arithmetic,
    weight: &Tensor,
    gradient: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    op::with([gradient, x], |[gradient, x]| {
        let samples = x.len() / inputs;
        let [gradient, x] = [(gradient, outputs), (x, inputs)]
            .map(|(values, terms)| Matrix::contiguous(values, terms));
        let out = match arithmetic {
            Arithmetic::F32 => {
                let mut out = vec![0f32; outputs * inputs];
                outer(&gradient, &x, samples, inputs, &mut out);
                out
            }
            Arithmetic::Bf16(unit) => {
                let gradient = Transposed::new(gradient, samples);
                let sums = OuterSums::new(unit, &gradient, &[x], inputs);
                let value = |i: usize| sums.at(0, i / inputs, i % inputs);
                (0..outputs * inputs).map(value).collect()
            }
        };
        op::tensor(out, weight.shape())
    })
}

/// The output and its shape.
fn forward(
    x: &Tensor,
    (weight, inputs): (&RightSide, usize),
    epilogue: Epilogue,
) -> Result<(Vec<f32>, Shape)> {
    let shape = Shape::from(mapped(x, inputs, weight.columns())?);
    let mut out = unset(shape.elem_count());
    op::with([x], |[x]| {
        let x = Matrix::contiguous(x, inputs);
        epilogue.with(&shape, |addends| weight.product(x, addends, &mut out))
    })?;
    Ok((out, shape))
}

/// The rows of `left`, of so many terms, times `packed`, in the shape of `like`.
fn multiplied(
    left: &Tensor,
    (packed, terms): (&RightSide, usize),
    like: &Tensor,
) -> Result<Tensor> {
    let mut out = unset(like.elem_count());
    op::with([left], |[left]| {
        let left = Matrix::contiguous(left, terms);
        packed.product(left, Addends::default(), &mut out);
        op::tensor(out, like.shape())
    })
}

/// The shape of the output.
fn mapped(x: &Tensor, inputs: usize, outputs: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => bail!("linear: an input of shape {shape:?} for weights of width {inputs}"),
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    fn waves(shape: &[usize], phase: f64) -> Tensor {
        let wave = |i| ((i as f64 * 0.73 + phase).sin() * 2.0) as f32;
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn to_f64(x: &Tensor) -> Tensor {
        x.to_dtype(DType::F64).unwrap()
    }

    /// The definition, from candle's operations in f64.
    fn plain(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        let y = to_f64(x).broadcast_matmul(&to_f64(weight).t().unwrap());
        y.unwrap().broadcast_add(&to_f64(bias)).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.dims(), b.dims());
        let gap = (to_f64(a) - to_f64(b)).unwrap().abs().unwrap();
        gap.max_all().unwrap().to_scalar().unwrap()
    }

    const SHAPES: [(usize, usize, usize, usize); 5] = [
        (1, 1, 1, 1),
        (2, 3, 40, 33),
        (8, 77, 31, 130),
        (1, 300, 100, 7),
        (3, 1, 64, 48),
    ];

    #[test]
    fn values_and_gradients_equal_the_definitions() {
        for (b, n, inputs, outputs) in SHAPES {
            let var = |shape: &[usize], phase| Var::from_tensor(&waves(shape, phase)).unwrap();
            let x = var(&[b, n, inputs], 0.1);
            let (weight, bias) = (var(&[outputs, inputs], 0.5), var(&[outputs], 0.9));
            let y = linear_tracked(Arithmetic::F32, [&x, &weight, &bias]).unwrap();
            let expected = plain(&x, &weight, &bias);
            assert!(gap(&y, &expected) < 1e-5 * inputs as f64);
            let slope = waves(&[b, n, outputs], 1.7);
            let gradients = |y: Tensor, slope: &Tensor| {
                let loss = (y * slope).unwrap().sum_all().unwrap();
                let gradients = loss.backward().unwrap();
                [&x, &weight, &bias].map(|var| gradients.get(var).unwrap().clone())
            };
            let ours = gradients(y, &slope);
            let theirs = gradients(expected, &to_f64(&slope));
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!(gap(ours, theirs) < 1e-5 * (b * n * outputs) as f64);
            }
        }
    }

    #[test]
    fn frozen_weights_pass_gradients_on() {
        for (b, n, inputs, outputs) in SHAPES {
            let var = |shape: &[usize], phase| Var::from_tensor(&waves(shape, phase)).unwrap();
            let (x, residual) = (var(&[b, n, inputs], 0.1), var(&[b, n, outputs], 0.3));
            let (weight, bias) = (waves(&[outputs, inputs], 0.5), waves(&[outputs], 0.9));
            let packed = Arc::new(PackedLinear::new(&weight).unwrap());
            let y = linear(
                &x,
                &packed,
                Epilogue {
                    bias: Some(&bias),
                    residual: Some(&residual),
                },
            )
            .unwrap();
            let expected = (plain(&x, &weight, &bias) + to_f64(&residual)).unwrap();
            assert!(gap(&y, &expected) < 1e-5 * inputs as f64);
            let gradients = |y: Tensor| {
                let gradients = y.sum_all().unwrap().backward().unwrap();
                [&x, &residual].map(|var| gradients.get(var).unwrap().clone())
            };
            for (ours, theirs) in gradients(y).iter().zip(&gradients(expected)) {
                assert!(gap(ours, theirs) < 1e-5 * outputs as f64);
            }
        }
    }
}
