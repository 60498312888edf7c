//! Operations that move values: concatenation and upsampling.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::{
    conv::patches::nearest,
    op::{self, Gradients},
    pages::unset,
    parts::{share, whole_rows},
};

/// Concatenates a (.., c1) and b (.., c2) along the last axis: (.., c1 + c2). Both f32,
/// contiguous and on a CPU. Differentiable.
pub fn concat(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ([rows @ .., c1], [b_rows @ .., c2]) = (a.dims(), b.dims()) else {
        bail!("concat requires channels");
    };
    if rows != b_rows {
        let (a, b) = (a.dims(), b.dims());
        bail!("concat: {a:?} and {b:?} differ in more than channels");
    }
    let (c1, c) = (*c1, c1 + c2);
    let joined = op::with([a, b], |[a, b]| Ok(join([a, b], [c1, c - c1])))?;
    let shape = [rows, &[c]].concat();
    op::tracked("concat", [a, b], joined, shape, move |[a, b], gradient| {
        let for_a = || columns(gradient, 0..c1, a);
        let for_b = || columns(gradient, c1..c, b);
        Ok([
            a.track_op().then(for_a).transpose()?,
            b.track_op().then(for_b).transpose()?,
        ])
    })
}

fn join([a, b]: [&[f32]; 2], [c1, c2]: [usize; 2]) -> Vec<f32> {
    let c = (c1 + c2).max(1);
    let mut out = unset(a.len() + b.len());
    share(&mut out, whole_rows(c), &|i, out| {
        let first = i * (whole_rows(c) / c);
        for (row, out) in out.chunks_mut(c).enumerate() {
            let (left, right) = out.split_at_mut(c1);
            left.copy_from_slice(&a[(first + row) * c1..][..c1]);
            right.copy_from_slice(&b[(first + row) * c2..][..c2]);
        }
    });
    out
}

/// Columns of `x` (.., c), in the shape of `like`.
fn columns(x: &Tensor, columns: Range<usize>, like: &Tensor) -> Result<Tensor> {
    let c = x.dim(candle_core::D::Minus1)?;
    let mut out = unset(like.elem_count());
    op::with([x], |[x]| {
        let (width, part) = (columns.len().max(1), whole_rows(columns.len()));
        share(&mut out, part, &|i, out| {
            let rows = x[i * (part / width) * c..].chunks(c);
            for (out, row) in out.chunks_mut(width).zip(rows) {
                out.copy_from_slice(&row[columns.clone()]);
            }
        });
        op::tensor(out, like.shape())
    })
}

/// Nearest-neighbour upsampling of pictures (b, h, w, c) to (b, height, width, c). x is
/// f32, contiguous and on a CPU. Differentiable.
pub fn enlarge(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if h * w * c == 0 {
        bail!("enlarge requires pixels, not {:?}", x.dims());
    }
    let (ys, xs) = (nearest(h, height), nearest(w, width));
    let y = op::with([x], |[x]| {
        let mut out = unset(b * height * width * c);
        share(&mut out, width * c, &|row, out| {
            let from = row / height * h + ys[row % height];
            let from = &x[from * w * c..][..w * c];
            for (out, x) in out.chunks_mut(c).zip(&xs) {
                out.copy_from_slice(&from[x * c..][..c]);
            }
        });
        Ok(out)
    })?;
    let shape = (b, height, width, c);
    op::tracked("enlarge", [x], y, shape, move |[x], gradient| {
        shrink(x, gradient)
    })
}

/// Sums the gradient over the copies of each pixel of `x`.
fn shrink(x: &Tensor, gradient: &Tensor) -> Result<Gradients<1>> {
    let (_, h, w, c) = x.dims4()?;
    let (_, height, width, _) = gradient.dims4()?;
    let (ys, xs) = (nearest(h, height), nearest(w, width));
    let mut out = unset(x.elem_count());
    op::with([gradient], |[gradient]| {
        share(&mut out, w * c, &|row, out| {
            out.fill(0.0);
            let rows = repeated(&ys, row % h).map(|y| row / h * height + y);
            for row in rows {
                let gradient = &gradient[row * width * c..][..width * c];
                for (gradient, x) in gradient.chunks(c).zip(&xs) {
                    let sums = out[x * c..][..c].iter_mut().zip(gradient);
                    sums.for_each(|(sum, gradient)| *sum += gradient);
                }
            }
        });
        Ok([Some(op::tensor(out, x.shape())?)])
    })
}

/// The range of the copies of a value.
fn repeated(nearest: &[usize], from: usize) -> Range<usize> {
    let start = nearest.partition_point(|&at| at < from);
    start..nearest.partition_point(|&at| at <= from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::oracle::{check, waves};

    #[test]
    fn joined_rows_lie_side_by_side() {
        for (rows, c1, c2) in [
            (1, 1, 1),
            (7, 3, 20),
            (2100, 16, 5),
            (6, 0, 4),
            (64, 640, 320),
        ] {
            let formula = |[a, b]: &[Vec<f64>; 2]| {
                let row = |i: usize| [&a[i * c1..][..c1], &b[i * c2..][..c2]].concat();
                (0..rows).flat_map(row).collect()
            };
            let arguments = [waves((rows, c1), 0.3), waves((rows, c2), 1.7)];
            check("concat", arguments, 1e-6, |[a, b]| concat(a, b), formula);
        }
        assert!(concat(&waves((2, 3), 0.), &waves((3, 3), 0.)).is_err());
    }

    #[test]
    fn enlarged_pictures_repeat_the_nearest_pixel() {
        for (b, (h, w), c, (height, width)) in [
            (1, (1, 1), 1, (1, 1)),
            (2, (1, 2), 3, (5, 5)),
            (3, (4, 5), 20, (8, 10)),
            (1, (7, 5), 9, (25, 7)),
            (2, (5, 4), 2, (3, 2)),
            (8, (16, 16), 33, (32, 32)),
        ] {
            let formula = |[x]: &[Vec<f64>; 1]| {
                let (ys, xs) = (nearest(h, height), nearest(w, width));
                let at = |i: usize| {
                    let (pixel, image) = (i / c % (height * width), i / c / (height * width));
                    let (y, x) = (ys[pixel / width], xs[pixel % width]);
                    ((image * h + y) * w + x) * c + i % c
                };
                (0..b * height * width * c).map(|i| x[at(i)]).collect()
            };
            let enlarged = |[x]: [&Tensor; 1]| enlarge(x, height, width);
            check(
                "enlarge",
                [waves((b, h, w, c), 0.3)],
                1e-6,
                enlarged,
                formula,
            );
        }
        assert!(enlarge(&waves((1, 0, 2, 3), 0.), 2, 2).is_err());
    }
}
