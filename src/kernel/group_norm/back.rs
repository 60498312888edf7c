//! The backward pass of a group norm. With the normalised values h of a group,
//! z = weight h + bias and y = curve(z), the gradients are
//!
//! - dz = dy curve'(z), whose sum is that of the bias, and the sum of dz h that of the weight,
//! - dx = (weight dz - mean(weight dz) - h mean(weight dz h)) / deviation.

use std::ops::Range;

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::{
    Affine, Moments, Norm,
    form::{self, Form, Sums},
};
use crate::kernel::{
    elementwise::{
        curve::Curve,
        map::{Formula, Rows, accumulate, map, sum_columns},
    },
    op::{self, Gradients},
    pages::unset,
    simd::vectorised,
};

impl<C: Curve> Norm<C> {
    /// The gradients of x, weight and bias.
    pub(super) fn backward(
        &self,
        arguments @ [x, weight, bias]: [&Tensor; 3],
        gradient: &Tensor,
    ) -> Result<Gradients<3>> {
        let [for_x, for_weight, for_bias] = arguments;
        op::with([x, weight, bias, gradient], |[x, weight, bias, dy]| {
            let affines = self.affines(weight, bias);
            let slopes = self.slopes([x, dy], &affines);
            let input = || self.input(weight, [x, dy], &affines, &slopes);
            Ok([
                op::if_tracked(for_x, || op::tensor(input(), for_x.shape()))?,
                op::if_tracked(for_weight, || over_pictures(&slopes, 1, self.form.channels))?,
                op::if_tracked(for_bias, || over_pictures(&slopes, 0, self.form.channels))?,
            ])
        })
    }

    /// For each picture and channel, the sums of dz and of dz h over the pixels.
    fn slopes(&self, [x, dy]: [&[f32]; 2], affines: &[Affine]) -> Vec<Sums> {
        let form = self.form;
        let mut sums = form.sum_pixels(|picture, range, totals| {
            vectorised(Collect {
                curve: self.curve,
                x: &x[range.clone()],
                dy: &dy[range],
                affine: &affines[picture],
                wide: form.wide(),
                totals,
            });
        });
        // From dz (x - center) to dz h.
        let pictures = self.moments.chunks(form.groups);
        for (Sums([plain, with_x]), moments) in sums.iter_mut().zip(pictures) {
            for (channels, of) in form.channels_of_groups().zip(moments) {
                for channel in channels {
                    with_x[channel] = (with_x[channel] - of.rest() * plain[channel]) * of.inverse;
                }
            }
        }
        sums
    }

    fn input(
        &self,
        weight: &[f32],
        [x, dy]: [&[f32]; 2],
        affines: &[Affine],
        slopes: &[Sums],
    ) -> Vec<f32> {
        let (form, wide) = (self.form, self.form.wide());
        let pictures = slopes.iter().zip(self.moments.chunks(form.groups));
        let lines = pictures.map(|(sums, moments)| line(form, moments, weight, sums));
        let lines: Vec<_> = lines.collect();
        let mut dx = unset(x.len());
        form.share(&mut dx, &|picture, from, dx| {
            let [x, dy] = [x, dy].map(|v| Rows(&v[from..], wide));
            let [center, scale, shift] = affines[picture].rows();
            let [factor, constant] = lines[picture].each_ref().map(|row| Rows(row, 0));
            let inputs = [x, dy, center, scale, shift, factor, constant];
            map(Input(self.curve), inputs, wide, dx);
        });
        dx
    }
}

/// The totals (c) of one of the sums.
fn over_pictures(pictures: &[Sums], which: usize, channels: usize) -> Result<Tensor> {
    let of = |channel| pictures.iter().map(move |Sums(sums)| sums[which][channel]);
    let totals = (0..channels).map(|channel| of(channel).sum::<f64>() as f32);
    op::tensor(totals.collect(), channels)
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
                accumulate(totals, sums);
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
