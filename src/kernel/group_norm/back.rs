//! The backward pass of a group norm. With the normalised values h of a group,
//! z = weight h + bias and y = curve(z), the gradients are
//!
//! - dz = dy curve'(z), whose sum is that of the bias, and the sum of dz h that of the weight,
//! - dx = (weight dz - mean(weight dz) - h mean(weight dz h)) / deviation.

use std::ops::Range;

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::{
    Affine, Moments,
    form::{self, Form, Sums},
};
use crate::kernel::{
    elementwise::{
        curve::Curve,
        map::{Formula, Rows, map, sum_columns},
    },
    op,
    simd::vectorised,
};

/// For each picture and channel, the sums of dz and of dz h.
pub(super) struct Slopes(Vec<Sums>);

impl Slopes {
    /// The gradient of the weights (c).
    pub(super) fn weight(&self, form: Form) -> Result<Tensor> {
        self.over_pictures(form, 1)
    }

    /// The gradient of the biases (c).
    pub(super) fn bias(&self, form: Form) -> Result<Tensor> {
        self.over_pictures(form, 0)
    }

    fn over_pictures(&self, form: Form, which: usize) -> Result<Tensor> {
        let of = |channel| self.0.iter().map(move |Sums(sums)| sums[which][channel]);
        let sums = (0..form.channels).map(|channel| of(channel).sum::<f64>() as f32);
        op::tensor(sums.collect(), form.channels)
    }
}

/// Sums over the pixels.
pub(super) fn slopes<C: Curve>(
    curve: C,
    form: Form,
    moments: &[Moments],
    [x, dy]: [&[f32]; 2],
    affines: &[Affine],
) -> Slopes {
    let mut sums = form.sum_pixels(|picture, range, totals| {
        vectorised(Collect {
            curve,
            x: &x[range.clone()],
            dy: &dy[range],
            affine: &affines[picture],
            wide: form.wide(),
            totals,
        });
    });
    // From dz (x - center) to dz h.
    for (Sums([plain, with_x]), moments) in sums.iter_mut().zip(moments.chunks(form.groups)) {
        for (channels, of) in form.channels_of_groups().zip(moments) {
            for channel in channels {
                with_x[channel] = (with_x[channel] - of.rest() * plain[channel]) * of.inverse;
            }
        }
    }
    Slopes(sums)
}

struct Collect<'a, C> {
    curve: C,
    x: &'a [f32],
    dy: &'a [f32],
    affine: &'a Affine,
    wide: usize,
    totals: [&'a mut [f64]; 2],
}

impl<C: Curve> WithSimd for Collect<'_, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [center, scale, shift] = self.affine.rows();
        let mut totals = self.totals;
        form::blocks(self.x.len(), self.wide, |block, width, [first, second]| {
            let rows = block.len() / width;
            let [x, dy] = [self.x, self.dy].map(|v| Rows(&v[block.clone()], width));
            let inputs = [x, dy, center, scale, shift];
            let outs = [&mut *first, &mut *second];
            sum_columns(s, Inner(self.curve), inputs, rows, outs);
            for (totals, sums) in totals.iter_mut().zip([first, second]) {
                let sums = totals.iter_mut().zip(sums);
                sums.for_each(|(total, sum)| *total += f64::from(*sum));
            }
        });
    }
}

/// dz and dz (x - center).
#[derive(Clone, Copy)]
struct Inner<C>(C);

impl<C: Curve> Formula<5, 2> for Inner<C> {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: [S::f32s; 5]) -> [S::f32s; 2] {
        let [x, dy, center, scale, shift] = x;
        let x = s.sub_f32s(x, center);
        let z = s.mul_add_e_f32s(x, scale, shift);
        let dz = s.mul_f32s(dy, self.0.at(s, z).1);
        [dz, s.mul_f32s(dz, x)]
    }
}

/// The gradient of x, of its shape.
pub(super) fn input<C: Curve>(
    curve: C,
    form: Form,
    moments: &[Moments],
    weight: &[f32],
    [x, dy]: [&[f32]; 2],
    affines: &[Affine],
    slopes: &Slopes,
) -> Vec<f32> {
    let pictures = slopes.0.iter().zip(moments.chunks(form.groups));
    let lines = pictures.map(|(sums, moments)| line(form, moments, weight, sums));
    let lines: Vec<_> = lines.collect();
    let mut dx = vec![0f32; x.len()];
    form.share(&mut dx, |picture, from, dx| {
        let [x, dy] = [x, dy].map(|v| Rows(&v[from..], form.wide()));
        let [center, scale, shift] = affines[picture].rows();
        let [factor, constant] = lines[picture].each_ref().map(|row| Rows(row, 0));
        let inputs = [x, dy, center, scale, shift, factor, constant];
        map(Input(curve), inputs, form.wide(), dx);
    });
    dx
}

/// The part of dx besides scale dz, for each channel of a picture: factor (x -
/// center) + constant.
fn line(form: Form, moments: &[Moments], weight: &[f32], Sums(sums): &Sums) -> [Vec<f32>; 2] {
    let count = (form.pixels * form.channels / form.groups) as f64;
    let mean = |sums: &[f64], channels: Range<usize>| {
        let terms = weight[channels.clone()].iter().zip(&sums[channels]);
        let terms = terms.map(|(weight, sum)| f64::from(*weight) * sum);
        terms.sum::<f64>() / count
    };
    let of_group = |(channels, of): (Range<usize>, &Moments)| {
        let factor = -mean(&sums[1], channels.clone()) * of.inverse * of.inverse;
        let constant = -mean(&sums[0], channels) * of.inverse - factor * of.rest();
        [factor, constant]
    };
    let lines = form.channels_of_groups().zip(moments).map(of_group);
    let lines: Vec<_> = lines.collect();
    [0, 1].map(|which| form.repeat(&lines, |line, _| line[which]))
}

#[derive(Clone, Copy)]
struct Input<C>(C);

impl<C: Curve> Formula<7, 1> for Input<C> {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: [S::f32s; 7]) -> [S::f32s; 1] {
        let [x, dy, center, scale, shift, factor, constant] = x;
        let x = s.sub_f32s(x, center);
        let z = s.mul_add_e_f32s(x, scale, shift);
        let dz = s.mul_f32s(dy, self.0.at(s, z).1);
        let line = s.mul_add_e_f32s(x, factor, constant);
        [s.mul_add_e_f32s(dz, scale, line)]
    }
}
