//! Elementwise functions.

pub(super) mod curve;
pub(super) mod map;
pub(super) mod total;

use candle_core::{Result, Tensor, bail};
use pulp::Simd;

use super::{op, parts::PART};
use curve::{Curve, Gelu, Swish};
use map::{Formula, Rows, map, map_rows};

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

/// Applies an activation function to f32 values, contiguous and on a CPU; GELU within
/// 1e-6. Differentiable.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Silu => along("silu", Swish(1.0), x),
        Activation::Gelu => along("gelu", Gelu, x),
        Activation::QuickGelu => along("quick-gelu", Swish(1.702), x),
    }
}

/// The first half of the last axis of x (.., 2 d) times the GELU of the second:
/// (.., d) (N. Shazeer, "GLU variants improve transformer", arXiv 2002.05202). x is f32,
/// contiguous and on a CPU. Differentiable.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let Some(d) = shape.last_mut().filter(|d| d.is_multiple_of(2)) else {
        bail!("geglu requires two halves, not {:?}", x.dims());
    };
    *d /= 2;
    let d = *d;
    let y = op::with([x], |[x]| Ok(map_rows(Gated, halves(x, d), d, x.len() / 2)))?;
    op::tracked("geglu", [x], y, shape, move |[x], gradient| {
        let dx = op::with([x, gradient], |[x, dy]| {
            let [first, second] = halves(x, d);
            Ok(map_rows(
                GatedBack,
                [first, second, Rows(dy, d)],
                d,
                x.len(),
            ))
        })?;
        Ok([Some(op::tensor(dx, x.shape())?)])
    })
}

/// a + b, of the same shape, f32, contiguous and on a CPU. Differentiable.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() {
        bail!("add: {:?} and {:?} differ", a.dims(), b.dims());
    }
    let sum = op::with([a, b], |[a, b]| Ok(each(Sum, [a, b])))?;
    op::tracked("add", [a, b], sum, a.shape(), |arguments, gradient| {
        Ok(arguments.map(|x| x.track_op().then(|| gradient.clone())))
    })
}

fn along(name: &'static str, curve: impl Curve, x: &Tensor) -> Result<Tensor> {
    let y = op::with([x], |[x]| Ok(each(Value(curve), [x])))?;
    op::tracked(name, [x], y, x.shape(), move |[x], gradient| {
        let dx = op::with([x, gradient], |[x, dy]| Ok(each(Slope(curve), [x, dy])))?;
        Ok([Some(op::tensor(dx, x.shape())?)])
    })
}

/// Applies a formula to the values at each index.
fn each<const N: usize>(formula: impl Formula<N, 1>, inputs: [&[f32]; N]) -> Vec<f32> {
    map_rows(
        formula,
        inputs.map(|x| Rows(x, PART)),
        PART,
        inputs[0].len(),
    )
}

/// Overwrites y (rows, d) with the gated rows of x (rows, 2 d), on this thread.
pub(super) fn gate(x: &[f32], d: usize, y: &mut [f32]) {
    map(Gated, halves(x, d), d, y);
}

/// A vector times the GELU of its gate.
#[inline(always)]
pub(super) fn gated<S: Simd>(s: S, x: S::f32s, gate: S::f32s) -> S::f32s {
    let [y] = Gated.at(s, [x, gate]);
    y
}

/// The halves of x (rows, 2 d).
fn halves(x: &[f32], d: usize) -> [Rows<'_>; 2] {
    [x, x.get(d..).unwrap_or_default()].map(|half| Rows(half, 2 * d))
}

#[derive(Clone, Copy)]
struct Value<C>(C);

impl<C: Curve> Formula<1, 1> for Value<C> {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        [self.0.at(s, x).0]
    }
}

/// The slope times the gradient.
#[derive(Clone, Copy)]
struct Slope<C>(C);

impl<C: Curve> Formula<2, 1> for Slope<C> {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, dy]: [S::f32s; 2]) -> [S::f32s; 1] {
        [s.mul_f32s(self.0.at(s, x).1, dy)]
    }
}

#[derive(Clone, Copy)]
struct Sum;

impl Formula<2, 1> for Sum {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 1] {
        [s.add_f32s(a, b)]
    }
}

#[derive(Clone, Copy)]
struct Gated;

impl Formula<2, 1> for Gated {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, gate]: [S::f32s; 2]) -> [S::f32s; 1] {
        [s.mul_f32s(x, Gelu.at(s, gate).0)]
    }
}

#[derive(Clone, Copy)]
struct GatedBack;

impl Formula<3, 2> for GatedBack {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, gate, dy]: [S::f32s; 3]) -> [S::f32s; 2] {
        let (value, slope) = Gelu.at(s, gate);
        [s.mul_f32s(dy, value), s.mul_f32s(s.mul_f32s(dy, x), slope)]
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{PI, SQRT_2};

    use super::*;
    use crate::kernel::oracle::{check, waves};

    /// Sizes below, at and above those of vectors and parts.
    const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 7), (3, 16), (5, 33), (2, 8200), (9, 5001)];

    /// Values between -12 and 12.
    fn wide(shape: (usize, usize)) -> Tensor {
        (waves(shape, 0.3) * 6.0).unwrap()
    }

    /// By the series whose terms are all positive (Abramowitz and Stegun, 7.1.6).
    fn erf(z: f64) -> f64 {
        let (mut term, mut sum) = (z, 0.0);
        for n in 0..200 {
            sum += term;
            term *= 2.0 * z * z / f64::from(2 * n + 3);
        }
        match z.abs() > 6.0 {
            true => z.signum(),
            false => 2.0 / PI.sqrt() * (-z * z).exp() * sum,
        }
    }

    fn plain_gelu(x: f64) -> f64 {
        x * (1.0 + erf(x / SQRT_2)) / 2.0
    }

    fn swish(factor: f64, x: f64) -> f64 {
        x / (1.0 + (-factor * x).exp())
    }

    fn check_curve(name: &str, activation: Activation, plain: impl Fn(f64) -> f64) {
        for shape in SHAPES {
            let formula = |[x]: &[Vec<f64>; 1]| x.iter().map(|x| plain(*x)).collect();
            check(
                name,
                [wide(shape)],
                5e-7,
                |[x]| activate(x, activation),
                formula,
            );
        }
    }

    #[test]
    fn activations_equal_their_formulas() {
        check_curve("silu", Activation::Silu, |x| swish(1.0, x));
        check_curve("quick gelu", Activation::QuickGelu, |x| swish(1.702, x));
        check_curve("gelu", Activation::Gelu, plain_gelu);
    }

    #[test]
    fn far_values_have_their_limits() {
        let x = [-1e30f32, -1e4, -90., 0., 90., 1e4, 1e30];
        for curve in [Activation::Silu, Activation::QuickGelu, Activation::Gelu] {
            let y = activate(&Tensor::new(&x, &candle_core::Device::Cpu).unwrap(), curve);
            let y = y.unwrap().to_vec1::<f32>().unwrap();
            for (x, y) in x.iter().zip(y) {
                assert!((x.max(0.) - y).abs() <= 1e-6 * x.abs(), "{y} for {x}");
            }
        }
        let nan = Tensor::new(&[f32::NAN], &candle_core::Device::Cpu).unwrap();
        for curve in [Activation::Silu, Activation::QuickGelu, Activation::Gelu] {
            assert!(activate(&nan, curve).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
        }
    }

    #[test]
    fn geglu_gates_one_half_by_the_other() {
        for (rows, d) in SHAPES.into_iter().chain([(4097, 3), (40, 640)]) {
            let formula = |[x]: &[Vec<f64>; 1]| {
                let gate = |row: &[f64]| (0..d).map(|i| row[i] * plain_gelu(row[d + i])).collect();
                x.chunks(2 * d)
                    .flat_map(|row| -> Vec<_> { gate(row) })
                    .collect()
            };
            check(
                "geglu",
                [waves((rows, 2 * d), 0.3)],
                1e-6,
                |[x]| geglu(x),
                formula,
            );
        }
        assert!(geglu(&waves((2, 3), 0.)).is_err());
    }

    #[test]
    fn sums_are_sums() {
        for shape in SHAPES {
            let formula = |[a, b]: &[Vec<f64>; 2]| a.iter().zip(b).map(|(a, b)| a + b).collect();
            let arguments = [waves(shape, 0.3), waves(shape, 1.7)];
            check("add", arguments, 1e-6, |[a, b]| add(a, b), formula);
        }
        assert!(add(&waves((2, 3), 0.), &waves((3, 2), 0.)).is_err());
    }
}
