//! Null-text inversion (arXiv 2211.09794): for each step the embedding of the empty prompt is
//! optimised, so that guided denoising stays on the way by which the picture was inverted.

mod adam;

use candle_core::{Device, Tensor, Var};

use super::{Event, Inverted, Observer, Solver, classifier_free};
use crate::{
    error::{Error, Result, Setting},
    guidance::Guidance,
    model::{
        Conditioning,
        attention::NoControl,
        unet::{Unet, UnetInput},
    },
    schedule::{DdimSteps, Jump, NoiseSchedule, Timestep},
};
use adam::Adam;

/// Most steps of the optimiser for each timestep, as published.
const INNER_STEPS: usize = 10;
/// The learning rate of the first step; it falls linearly to half of it.
const RATE: f64 = 1e-2;
/// The loss at which the first step is good enough, and what is added to it until the last one:
/// with 50 steps the published 1e-5 + 2e-5 i.
const ENOUGH: (f64, f64) = (1e-5, 1e-3);

/// The optimised embeddings (1, tokens, width) by the timesteps of their evaluations. Empty if
/// nothing was optimised.
#[derive(Clone, Debug, Default)]
pub struct NullEmbeddings(pub Vec<(Timestep, Tensor)>);

impl NullEmbeddings {
    /// Whether nothing was optimised.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The embedding at a timestep, if there is one.
    pub fn at(&self, timestep: Timestep) -> Option<&Tensor> {
        let mut all = self.0.iter();
        all.find(|(at, _)| *at == timestep).map(|(_, own)| own)
    }

    /// The same on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |(at, own): &(Timestep, Tensor)| Ok((*at, own.to_device(device)?));
        self.0.iter().map(moved).collect::<Result<_>>().map(Self)
    }

    /// The text of a row at a timestep.
    pub(super) fn conditioning(
        &self,
        t: Timestep,
        pooled: Option<&Tensor>,
    ) -> Result<Conditioning> {
        let missing = || {
            let reason = format!("there is no optimised embedding for timestep {t}");
            Error::of(Setting::Steps, reason)
        };
        Ok(Conditioning {
            hidden_states: self.at(t).ok_or_else(missing)?.clone(),
            pooled: pooled.cloned(),
        })
    }
}

/// The optimisation of the embeddings of one picture, with Adam through the network.
pub struct NullTextOptimiser<'a> {
    /// The network, in f32: gradients are smaller than half precision resolves.
    pub unet: &'a Unet,
    /// The noise schedule.
    pub schedule: &'a NoiseSchedule,
    /// The steps of the inversion.
    pub steps: DdimSteps,
    /// The guidance that the embeddings are for.
    pub guidance: Guidance,
    /// The text of the picture, a row.
    pub text: &'a Conditioning,
    /// The text that the first embedding begins as, a row.
    pub begin: &'a Conditioning,
}

/// The most evaluations of an optimisation: with text and at last without it in each step, and
/// those of the optimiser where there is guidance.
pub(crate) fn evaluations(steps: DdimSteps, guidance: Guidance) -> usize {
    let of = |jump: Jump| match guidance.strength_at(jump.from) {
        0.0 => 2,
        _ => 2 + INNER_STEPS,
    };
    steps.reverse().jumps().map(of).sum()
}

/// A step of the walk: its latent, the noise predicted with text, and where it should lead.
struct Pivot<'a> {
    x: &'a Tensor,
    with_text: &'a Tensor,
    jump: Jump,
    goal: &'a Tensor,
}

impl NullTextOptimiser<'_> {
    /// The embeddings with which guided denoising follows the trajectory back. Each begins as
    /// the one of the step before.
    pub fn run(&self, inverted: &Inverted, observer: &mut dyn Observer) -> Result<NullEmbeddings> {
        let timesteps = self.steps.reverse();
        let (mut x, mut embedding) = (inverted.latent.clone(), self.begin.hidden_states.clone());
        let mut all = Vec::with_capacity(timesteps.count());
        for (index, jump) in timesteps.jumps().enumerate() {
            let reason = || Error::setting(format!("the trajectory lacks timestep {}", jump.to));
            let goal = inverted.trajectory.at(jump.to).ok_or_else(reason)?;
            let mut evaluated = || {
                observer.observe(Event::Evaluated {
                    step: index,
                    of: timesteps.count(),
                    rows: 1,
                });
            };
            let with_text = self.predicted(&x, jump, self.text)?;
            evaluated();
            let pivot = Pivot {
                x: &x,
                with_text: &with_text,
                jump,
                goal,
            };
            let done = index as f64 / timesteps.count() as f64;
            if self.guidance.strength_at(jump.from) != 0.0 {
                embedding = self.optimised(&pivot, embedding, done, &mut evaluated)?;
            }
            let next = self.guided(&pivot, &embedding)?.detach();
            evaluated();
            observer.observe(Event::Value(
                &format!("null_embedding.{}", jump.from),
                &embedding,
            ));
            all.push((jump.from, embedding.clone()));
            x = next;
        }
        Ok(NullEmbeddings(all))
    }

    /// The embedding of a step; `done` is the share of the steps before it.
    fn optimised(
        &self,
        pivot: &Pivot,
        mut embedding: Tensor,
        done: f64,
        evaluated: &mut dyn FnMut(),
    ) -> Result<Tensor> {
        let mut adam = Adam::new(&embedding, RATE * (1.0 - done / 2.0))?;
        for _ in 0..INNER_STEPS {
            let variable = Var::from_tensor(&embedding)?;
            let reached = self.guided(pivot, variable.as_tensor())?;
            let loss = (reached - pivot.goal)?.sqr()?.mean_all()?;
            let gradients = loss.backward()?;
            evaluated();
            let gradient = gradients.get(&variable);
            let gradient = gradient.ok_or_else(|| Error::setting("the text is not read"))?;
            embedding = adam.stepped(&variable.as_detached_tensor(), &gradient.detach())?;
            // As published, the loss is that before the step.
            let loss = f64::from(loss.to_scalar::<f32>()?);
            if !loss.is_finite() {
                return Err(Error::Numbers(
                    "the loss of null-text inversion is not a number: the network's weights are \
                     damaged, or overflow in f32"
                        .into(),
                ));
            }
            if loss < ENOUGH.0 + ENOUGH.1 * done {
                break;
            }
        }
        Ok(embedding)
    }

    /// The latent after a guided step.
    fn guided(&self, pivot: &Pivot, embedding: &Tensor) -> Result<Tensor> {
        let text = Conditioning {
            hidden_states: embedding.clone(),
            pooled: self.begin.pooled.clone(),
        };
        let without = self.predicted(pivot.x, pivot.jump, &text)?;
        let strength = self.guidance.strength_at(pivot.jump.from);
        let eps = classifier_free(pivot.with_text, &without, &[strength])?;
        Solver::Ddim.jump(self.schedule, pivot.x, &eps, pivot.jump)
    }

    fn predicted(&self, x: &Tensor, jump: Jump, text: &Conditioning) -> Result<Tensor> {
        let input = UnetInput {
            latent: x,
            times: &[jump.from],
            guidance: &[0.0],
            text: &self.unet.prepare(text)?,
        };
        self.unet.forward(input, &mut NoControl)
    }
}
