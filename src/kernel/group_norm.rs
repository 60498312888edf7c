//! Group norm (Y. Wu and K. He, arXiv 1803.08494).
//!
//! The sums for mean and deviation are computed over a few pixels in f32, each channel
//! relative to the first of these pixels, and accumulated in f64: neither a mean much
//! larger than the deviation nor the millions of values of an autoencoder's picture
//! reduce the precision.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};

use super::{
    Activation,
    elementwise::{
        activate,
        curve::{Curve, Linear, Swish},
        map::{Formula, Rows, map, sum_columns},
    },
    op,
    pages::unset,
    simd::vectorised,
};

mod back;
mod form;
mod sums;
#[cfg(test)]
mod tests;

use form::Form;

pub use sums::{GroupSums, Moments};

/// Normalises groups of channels of each picture of x (b, .., c), then scales
/// and shifts each channel by `weight` and `bias` (c). All f32, contiguous and
/// on a CPU; differentiable in all arguments.
pub fn group_norm(
    x: &Tensor,
    affine: [&Tensor; 2],
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let moments = group_sums(x, groups)?.moments(eps);
    normalise(Form::of(x, groups)?, moments, x, affine, activation)
}

/// The sums over x (b, .., c), pictures or the same part of each.
pub fn group_sums(x: &Tensor, groups: usize) -> Result<GroupSums> {
    let form = Form::of(x, groups)?;
    op::with([x], |[x]| Ok(sums(form, x)))
}

/// The same as [`group_norm`] for a part of each picture, with the sums over the whole
/// pictures. Not differentiable: tracked arguments are an error.
pub fn group_norm_by(
    sums: &GroupSums,
    x: &Tensor,
    affine @ [weight, bias]: [&Tensor; 2],
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let form = Form::of(x, sums.groups())?;
    if sums.pictures() != form.pictures {
        bail!("group norm: sums over other pictures");
    }
    op::untracked("a group norm with given sums", &[x, weight, bias])?;
    normalise(form, sums.moments(eps), x, affine, activation)
}

fn normalise(
    form: Form,
    moments: Vec<Moments>,
    x: &Tensor,
    affine: [&Tensor; 2],
    activation: Activation,
) -> Result<Tensor> {
    match activation {
        Activation::Silu => Norm::of(Swish(1.0), form, moments).forward(x, affine),
        other => activate(&Norm::of(Linear, form, moments).forward(x, affine)?, other),
    }
}

/// A group norm followed by a function.
struct Norm<C> {
    curve: C,
    form: Form,
    /// Of each group (pictures, groups).
    moments: Vec<Moments>,
}

impl<C: Curve> Norm<C> {
    fn of(curve: C, form: Form, moments: Vec<Moments>) -> Self {
        Self {
            curve,
            form,
            moments,
        }
    }

    fn forward(self, x: &Tensor, [weight, bias]: [&Tensor; 2]) -> Result<Tensor> {
        let channels = self.form.channels;
        if weight.dims() != [channels] || bias.dims() != [channels] {
            bail!("group norm: {channels} channels, but {weight:?} and {bias:?}");
        }
        let arguments = [x, weight, bias];
        let y = op::with(arguments, |[x, weight, bias]| {
            Ok(self.apply(x, &self.affines(weight, bias)))
        })?;
        let backward =
            move |arguments: [&Tensor; 3], gradient: &Tensor| self.backward(arguments, gradient);
        op::tracked("group-norm", arguments, y, x.shape(), backward)
    }

    fn apply(&self, x: &[f32], affines: &[Affine]) -> Vec<f32> {
        let mut y = unset(x.len());
        let wide = self.form.wide();
        self.form.share(&mut y, &|picture, from, y| {
            let [center, scale, shift] = affines[picture].rows();
            let inputs = [Rows(&x[from..], wide), center, scale, shift];
            map(Normal(self.curve), inputs, wide, y);
        });
        y
    }

    fn affines(&self, weight: &[f32], bias: &[f32]) -> Vec<Affine> {
        let form = self.form;
        let scale = |of: &Moments, channel: usize| f64::from(weight[channel]) * of.inverse;
        let shift = |of: &Moments, channel: usize| {
            f64::from(bias[channel]) - of.rest() * scale(of, channel)
        };
        let affine = |groups: &[Moments]| Affine {
            center: form.repeat(groups, |of, _| f64::from(of.center())),
            scale: form.repeat(groups, scale),
            shift: form.repeat(groups, shift),
        };
        self.moments.chunks(form.groups).map(affine).collect()
    }
}

/// The sums over each group (pictures, groups).
fn sums(form: Form, x: &[f32]) -> GroupSums {
    let add = |_, x: &[f32], totals: [&mut [f64]; 2]| {
        let wide = form.wide();
        vectorised(Powers { x, wide, totals });
    };
    let sums = form.sum_pixels(|picture, range, totals| add(picture, &x[range], totals));
    let group = |channels: [&[f64]; 2]| channels.map(|channels| channels.iter().sum());
    let of = sums.iter().flat_map(|sums| sums.groups(form).map(group));
    let count = form.pixels * form.channels / form.groups;
    GroupSums::new(count, form.groups, of.collect())
}

/// The sums of values and of their squares, by channel.
struct Powers<'a> {
    x: &'a [f32],
    wide: usize,
    totals: [&'a mut [f64]; 2],
}

impl WithSimd for Powers<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [sums, squares] = self.totals;
        form::blocks(self.x.len(), self.wide, |block, width, [first, second]| {
            let rows = block.len() / width;
            let x = &self.x[block];
            let inputs = [Rows(x, width), Rows(x, 0)];
            sum_columns(s, Deviation, inputs, rows, [&mut *first, &mut *second]);
            let count = rows as f64;
            let totals = sums.iter_mut().zip(squares.iter_mut());
            let parts = x.iter().zip(&*first).zip(&*second);
            for ((sum, square), ((pivot, first), second)) in totals.zip(parts.take(width)) {
                let [pivot, first, second] = [*pivot, *first, *second].map(f64::from);
                *sum += first + count * pivot;
                *square += second + pivot * (2.0 * first + count * pivot);
            }
        });
    }
}

/// x - pivot, and its square.
#[derive(Clone, Copy)]
struct Deviation;

impl Formula<2, 2> for Deviation {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, pivot]: [S::f32s; 2]) -> [S::f32s; 2] {
        let deviation = s.sub_f32s(x, pivot);
        [deviation, s.mul_f32s(deviation, deviation)]
    }
}

/// The maps that group norms of pictures x (b, .., c) are.
pub(super) fn affines(
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    groups: usize,
    eps: f64,
) -> Result<Vec<Affine>> {
    let form = Form::of(x, groups)?;
    if weight.dims() != [form.channels] || bias.dims() != [form.channels] {
        bail!(
            "group norm: {} channels, but {weight:?} and {bias:?}",
            form.channels
        );
    }
    let norm = Norm::of(Linear, form, group_sums(x, groups)?.moments(eps));
    op::with([weight, bias], |[weight, bias]| {
        Ok(norm.affines(weight, bias))
    })
}

/// The map (x - center) scale + shift of each channel of a picture. Each list is repeated
/// over a few pixels.
pub(super) struct Affine {
    center: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    fn rows(&self) -> [Rows<'_>; 3] {
        [&self.center, &self.scale, &self.shift].map(|row| Rows(row, 0))
    }

    /// Overwrites the first values of `y` with the SiLU of the map of some channels.
    #[inline(always)]
    pub(super) fn silu<S: Simd>(&self, s: S, x: &[f32], channels: Range<usize>, y: &mut [f32]) {
        let lists = [&self.center, &self.scale, &self.shift].map(|list| &list[channels.clone()]);
        let [x, center, scale, shift] = [x, lists[0], lists[1], lists[2]].map(S::as_simd_f32s);
        let (whole, rest) = S::as_mut_simd_f32s(&mut y[..channels.len()]);
        let normal = Normal(Swish(1.0));
        for (i, y) in whole.iter_mut().enumerate() {
            [*y] = normal.at(s, [x.0[i], center.0[i], scale.0[i], shift.0[i]]);
        }
        if !rest.is_empty() {
            let last = [x.1, center.1, scale.1, shift.1].map(|rest| s.partial_load_f32s(rest));
            let [y] = normal.at(s, last);
            s.partial_store_f32s(rest, y);
        }
    }
}

#[derive(Clone, Copy)]
struct Normal<C>(C);

impl<C: Curve> Formula<4, 1> for Normal<C> {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, [x, center, scale, shift]: [S::f32s; 4]) -> [S::f32s; 1] {
        let y = s.mul_add_e_f32s(s.sub_f32s(x, center), scale, shift);
        [self.0.at(s, y).0]
    }
}
