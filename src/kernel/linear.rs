//! Linear layers.

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{
    elementwise::{gate, total::sum_rows},
    epilogue::Epilogue,
    gemm::{
        Matrix, multiply,
        outer::{Listed, outer},
        packed::Packed,
        product,
    },
    op::{self, Gradients},
    scratch::Scratch,
};

/// The packed weights of a linear layer.
#[derive(Debug)]
pub struct PackedLinear {
    packed: Packed,
    adjoint: OnceLock<Packed>,
}

impl PackedLinear {
    /// Packs weights (outputs, inputs) on a CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let place = |input, output| output * inputs + input;
        Ok(Self {
            packed: Packed::new(weight, (inputs, outputs), place)?,
            adjoint: OnceLock::new(),
        })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.packed.terms()
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.packed.columns()
    }

    /// The weights of the backward pass, packed on first use.
    fn adjoint(&self) -> &Packed {
        let shape = (self.outputs(), self.inputs());
        let from = |output, input| (input, output);
        self.adjoint
            .get_or_init(|| self.packed.rearranged(shape, from))
    }
}

/// Maps x (.., inputs) to (.., outputs) and adds bias and residual. All f32, contiguous
/// and on a CPU; differentiable in x and the residual.
pub fn linear(x: &Tensor, dense: &Arc<PackedLinear>, epilogue: Epilogue) -> Result<Tensor> {
    let shape = mapped(x, dense.inputs(), dense.outputs())?;
    let mut out = vec![0f32; shape.iter().product()];
    op::with([x], |[x]| {
        epilogue.with(&shape.clone().into(), |epilogue| {
            let rows = rows(x, dense.inputs());
            product(&rows, &dense.packed, epilogue, &mut out);
        })
    })?;
    let dense = dense.clone();
    let backward = move |gradient: &Tensor, x: &Tensor| -> Result<Option<Tensor>> {
        let back = || multiplied(gradient, dense.adjoint(), x);
        x.track_op().then(back).transpose()
    };
    match epilogue.residual {
        None => op::tracked("linear", [x], out, shape, move |[x], gradient| {
            Ok([backward(gradient, x)?])
        }),
        Some(residual) => op::tracked(
            "linear",
            [x, residual],
            out,
            shape,
            move |args, gradient| Ok([backward(gradient, args[0])?, Some(gradient.clone())]),
        ),
    }
}

/// Maps x (.., inputs) to two halves (.., 2 d) and multiplies the first by the
/// GELU of the second: (.., d). The halves are computed for a few rows at a time.
/// All f32, contiguous and on a CPU. Not differentiable: a tracked x is an error.
pub fn linear_geglu(
    x: &Tensor,
    dense: &Arc<PackedLinear>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, both) = (dense.inputs(), dense.outputs());
    let (shape, d) = (mapped(x, inputs, both / 2)?, both / 2);
    if x.track_op() || !both.is_multiple_of(2) {
        bail!("linear_geglu requires an untracked input and an even width");
    }
    let mut out = vec![0f32; shape.iter().product()];
    let count = out.len() / d;
    op::with([x], |[x]| {
        Epilogue::bias(bias).with(&(count, both).into(), |epilogue| {
            let block = |(i, out): (usize, &mut [f32])| {
                let range = i * HALVES..i * HALVES + out.len() / d;
                let mut halves = Scratch::new(range.len() * both);
                let mut slots: Vec<_> = halves.chunks_mut(both).collect();
                let (x, weights) = (rows(x, inputs), &dense.packed);
                let panels = 0..weights.panels().len();
                multiply(&x, range.clone(), weights, panels, &mut slots);
                epilogue.add_to_rows(&mut halves, both, range.start, count);
                gate(&halves, d, out);
            };
            let blocks = out.par_chunks_mut(HALVES * d).enumerate();
            blocks.for_each(block);
        })
    })?;
    op::tensor(out, shape)
}

/// Rows whose two halves are computed at once.
const HALVES: usize = 48;

/// Adds the product of a (m, k) and b (k, n) to `onto` (m, ..), which has m n values. All
/// f32, contiguous and on a CPU. Not differentiable.
pub fn add_product(onto: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((m, k), (terms, n)) = (a.dims2()?, b.dims2()?);
    if k != terms || onto.elem_count() != m * n {
        bail!("add_product: {a:?} times {b:?} onto {onto:?}");
    }
    let (mut out, shape) = (vec![0f32; m * n], onto.shape());
    op::with([onto, a, b], |[onto, a, b]| {
        let packed = Packed::from_values(b, (k, n), |term, column| term * n + column);
        let epilogue = Epilogue {
            residual: Some(onto),
            ..Epilogue::default()
        };
        product(&rows(a, k), &packed, epilogue, &mut out);
        op::tensor(out, shape)
    })
}

/// Maps x (.., inputs) by `weight` (outputs, inputs) and adds `bias` (outputs).
/// All f32, contiguous and on a CPU; differentiable in all arguments.
pub fn linear_tracked(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let shape = mapped(x, inputs, outputs)?;
    let mut out = vec![0f32; shape.iter().product()];
    op::with([x, weight, bias], |[x, weight, bias]| {
        let place = |input, output| output * inputs + input;
        let packed = Packed::from_values(weight, (inputs, outputs), place);
        let epilogue = Epilogue::bias(Some(bias));
        product(&rows(x, inputs), &packed, epilogue, &mut out);
        Ok(())
    })?;
    op::tracked("linear", [x, weight, bias], out, shape, backward)
}

fn backward([x, weight, bias]: [&Tensor; 3], gradient: &Tensor) -> Result<Gradients<3>> {
    let (outputs, inputs) = weight.dims2()?;
    let for_x = || {
        let packed = op::with([weight], |[weight]| {
            let place = |output, input| output * inputs + input;
            Ok(Packed::from_values(weight, (outputs, inputs), place))
        })?;
        multiplied(gradient, &packed, x)
    };
    let for_weight = || {
        let mut out = vec![0f32; outputs * inputs];
        op::with([gradient, x], |[gradient, x]| {
            let samples = x.len() / inputs;
            let (gradient, x) = (Listed(gradient, outputs), Listed(x, inputs));
            outer(&gradient, &x, samples, inputs, &mut out);
            Ok(())
        })?;
        op::tensor(out, weight.shape())
    };
    Ok([
        x.track_op().then(for_x).transpose()?,
        weight.track_op().then(for_weight).transpose()?,
        bias.track_op().then(|| sum_rows(gradient)).transpose()?,
    ])
}

/// The rows of `left` times `packed`, in the shape of `like`.
fn multiplied(left: &Tensor, packed: &Packed, like: &Tensor) -> Result<Tensor> {
    let mut out = vec![0f32; like.elem_count()];
    op::with([left], |[left]| {
        let left = rows(left, packed.terms());
        product(&left, packed, Epilogue::default(), &mut out);
        op::tensor(out, like.shape())
    })
}

fn rows(values: &[f32], terms: usize) -> Matrix<'_> {
    Matrix {
        values,
        stride: terms,
        terms,
    }
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
            let y = linear_tracked(&x, &weight, &bias).unwrap();
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
            let dense = Arc::new(PackedLinear::new(&weight).unwrap());
            let y = linear(
                &x,
                &dense,
                Epilogue {
                    bias: Some(&bias),
                    residual: Some(&residual),
                    ..Epilogue::default()
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
