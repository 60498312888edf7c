//! Layer norm (J. L. Ba et al., arXiv 1607.06450).

#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};

use super::{
    elementwise::map::{Formula, RowFormula, Rows, accumulate, fill, map_rows, sum, sum_columns},
    op::{self, Gradients},
    parts::{map_parts, whole_rows},
    simd::vectorised,
};

/// Rows that are summed in f32.
const BLOCK: usize = 16;

/// Normalises the last axis of x (.., c), then scales and shifts each channel
/// by `weight` and `bias` (c). All f32, contiguous and on a CPU; differentiable in all
/// arguments.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let Some(&c) = x.dims().last().filter(|c| **c > 0) else {
        bail!("layer norm requires channels, not {:?}", x.dims());
    };
    if weight.dims() != [c] || bias.dims() != [c] {
        bail!("layer norm: {c} channels, but {weight:?} and {bias:?}");
    }
    let eps = eps as f32;
    let y = op::with([x, weight, bias], |[x, weight, bias]| {
        let inputs = [Rows(x, c), Rows(weight, 0), Rows(bias, 0)];
        Ok(map_rows(Normalise { eps }, inputs, c, x.len()))
    })?;
    op::tracked(
        "layer-norm",
        [x, weight, bias],
        y,
        x.shape(),
        move |arguments, gradient| backward(arguments, gradient, eps),
    )
}

fn backward([x, weight, bias]: [&Tensor; 3], gradient: &Tensor, eps: f32) -> Result<Gradients<3>> {
    let for_x = || {
        op::with([x, gradient, weight], |[values, dy, weight]| {
            let c = weight.len();
            let inputs = [Rows(values, c), Rows(dy, c), Rows(weight, 0)];
            op::tensor(map_rows(Back { eps }, inputs, c, values.len()), x.shape())
        })
    };
    let for_x = op::if_tracked(x, for_x)?;
    if !weight.track_op() && !bias.track_op() {
        return Ok([for_x, None, None]);
    }
    let [for_bias, for_weight] = parameters(x, gradient, eps)?;
    Ok([
        for_x,
        weight.track_op().then_some(for_weight),
        bias.track_op().then_some(for_bias),
    ])
}

/// The gradients (c) of biases and weights.
fn parameters(x: &Tensor, gradient: &Tensor, eps: f32) -> Result<[Tensor; 2]> {
    let c = x.dim(candle_core::D::Minus1)?;
    let sums = op::with([x, gradient], |[x, dy]| {
        let part = whole_rows(c);
        let find = |i: usize| {
            let range = i * part..x.len().min((i + 1) * part);
            let (x, dy) = (&x[range.clone()], &dy[range]);
            vectorised(Parameters { x, dy, c, eps })
        };
        Ok(map_parts(x.len().div_ceil(part), x.len(), &find))
    })?;
    let total = |which: usize| {
        let sum = |channel| sums.iter().map(|sums| sums[which][channel]).sum::<f64>();
        op::tensor((0..c).map(|channel| sum(channel) as f32).collect(), c)
    };
    Ok([total(0)?, total(1)?])
}

/// Computes the sums of dy and of dy h over all rows.
struct Parameters<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    c: usize,
    eps: f32,
}

impl WithSimd for Parameters<'_> {
    type Output = [Vec<f64>; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> Self::Output {
        let c = self.c;
        let (mut h, mut sums) = (vec![0f32; BLOCK * c], [vec![0f32; c], vec![0f32; c]]);
        let mut totals = [vec![0f64; c], vec![0f64; c]];
        let blocks = self.x.chunks(BLOCK * c).zip(self.dy.chunks(BLOCK * c));
        for (x, dy) in blocks {
            for (x, h) in x.chunks(c).zip(h.chunks_mut(c)) {
                fill(s, Standard::of(s, x, self.eps), [x], [h]);
            }
            let outs = sums.each_mut().map(Vec::as_mut_slice);
            sum_columns(s, Products, [Rows(dy, c), Rows(&h, c)], x.len() / c, outs);
            for (totals, sums) in totals.iter_mut().zip(&sums) {
                accumulate(totals, sums);
            }
        }
        totals
    }
}

/// The normalisation of a row: (x - first - mean) inverse. The first value is subtracted
/// first, because the mean may be large.
#[derive(Clone, Copy)]
struct Standard {
    first: f32,
    mean: f32,
    inverse: f32,
}

impl Standard {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: &[f32], eps: f32) -> Self {
        let (first, count) = (x[0], x.len() as f32);
        let [total] = sum(s, Minus(first), [x]);
        let mean = total / count;
        let [squares] = sum(s, Square { first, mean }, [x]);
        let inverse = 1.0 / (squares / count + eps).sqrt();
        Self {
            first,
            mean,
            inverse,
        }
    }
}

impl Formula<1, 1> for Standard {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        let x = s.sub_f32s(x, s.splat_f32s(self.first));
        let x = s.sub_f32s(x, s.splat_f32s(self.mean));
        [s.mul_f32s(x, s.splat_f32s(self.inverse))]
    }
}

impl Formula<3, 1> for Standard {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, weight, bias]: [S::f32s; 3]) -> [S::f32s; 1] {
        let [h] = self.at(s, [x]);
        [s.mul_add_e_f32s(h, weight, bias)]
    }
}

/// The layer norm of a row x, with weight and bias.
#[derive(Clone, Copy)]
struct Normalise {
    eps: f32,
}

impl RowFormula<3, 1> for Normalise {
    type Formula = Standard;

    #[inline(always)]
    fn of<S: Simd>(self, s: S, [x, _, _]: [&[f32]; 3]) -> Standard {
        Standard::of(s, x, self.eps)
    }
}

#[derive(Clone, Copy)]
struct Minus(f32);

impl Formula<1, 1> for Minus {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        [s.sub_f32s(x, s.splat_f32s(self.0))]
    }
}

/// The square of x - first - mean.
#[derive(Clone, Copy)]
struct Square {
    first: f32,
    mean: f32,
}

impl Formula<1, 1> for Square {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        let x = s.sub_f32s(x, s.splat_f32s(self.first));
        let x = s.sub_f32s(x, s.splat_f32s(self.mean));
        [s.mul_f32s(x, x)]
    }
}

/// g and g h.
#[derive(Clone, Copy)]
struct Means(Standard);

impl Formula<3, 2> for Means {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, dy, weight]: [S::f32s; 3]) -> [S::f32s; 2] {
        let ([h], g) = (self.0.at(s, [x]), s.mul_f32s(dy, weight));
        [g, s.mul_f32s(g, h)]
    }
}

/// The gradient of a row x, with that of the output and the weight.
#[derive(Clone, Copy)]
struct Back {
    eps: f32,
}

impl RowFormula<3, 1> for Back {
    type Formula = Input;

    #[inline(always)]
    fn of<S: Simd>(self, s: S, row: [&[f32]; 3]) -> Input {
        let standard = Standard::of(s, row[0], self.eps);
        let means = sum(s, Means(standard), row).map(|sum| sum / row[0].len() as f32);
        Input { standard, means }
    }
}

/// (g - mean(g) - h mean(g h)) / deviation, with the normalised values h and the gradient
/// times the weight g.
#[derive(Clone, Copy)]
struct Input {
    standard: Standard,
    means: [f32; 2],
}

impl Formula<3, 1> for Input {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, dy, weight]: [S::f32s; 3]) -> [S::f32s; 1] {
        let [h] = self.standard.at(s, [x]);
        let [of_g, of_products] = self.means.map(|mean| s.splat_f32s(mean));
        let g = s.sub_f32s(s.mul_f32s(dy, weight), of_g);
        let dx = s.negate_mul_add_e_f32s(h, of_products, g);
        [s.mul_f32s(dx, s.splat_f32s(self.standard.inverse))]
    }
}

/// dy and dy h.
#[derive(Clone, Copy)]
struct Products;

impl Formula<2, 2> for Products {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [dy, h]: [S::f32s; 2]) -> [S::f32s; 2] {
        [dy, s.mul_f32s(dy, h)]
    }
}
