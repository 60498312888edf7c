//! The sampling loop: predict the noise, jump, apply the control.

use candle_core::{DType, Tensor};

use super::{Event, Observer, Predictor, Solver};
use crate::{
    error::{Error, Result},
    model::attention::{AttentionControl, NoControl},
    schedule::{NoiseSchedule, Timestep, Timesteps},
};

/// A step of the sampling loop, as passed to a control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepInfo {
    /// Index of the step, from 0.
    pub index: usize,
    /// The timestep at which the network is evaluated.
    pub timestep: Timestep,
    /// Whether the rows use their early prompts.
    pub early: bool,
    /// Whether guidance leads some rows further than others.
    pub unevenly_guided: bool,
    /// Height and width of the latents.
    pub latent: (usize, usize),
}

/// Modifies the attention within steps and the latents between them.
pub trait WalkControl: AttentionControl {
    /// Called before each step.
    fn begin(&mut self, _step: StepInfo) {}

    /// Returns the latents (rows, 4, h, w) that replace the step's result, or `None`
    /// to leave it unchanged.
    fn finish(&mut self, _latent: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Whether the control needs the source of the edit as the first row.
    fn reads_source(&self) -> bool {
        false
    }
}

impl WalkControl for NoControl {}

/// A sampling loop in either direction: inversion, generation or editing.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The noise predictor.
    pub predictor: &'a dyn Predictor,
    /// The noise schedule.
    pub schedule: &'a NoiseSchedule,
    /// The timesteps of the latents, from the first to the result's.
    pub timesteps: &'a Timesteps,
    /// How each step is computed.
    pub solver: Solver,
}

impl Walk<'_> {
    /// Runs the loop on the latents `x` (rows, 4, h, w) and returns the last ones.
    pub fn run(
        &self,
        mut x: Tensor,
        control: &mut dyn WalkControl,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        for (step, jump) in self.timesteps.jumps().enumerate() {
            let (_, _, height, width) = x.dims4()?;
            let at = self.solver.predicted_at(jump);
            control.begin(StepInfo {
                index: step,
                timestep: at,
                early: self.predictor.is_early(at),
                unevenly_guided: self.predictor.is_unevenly_guided(at),
                latent: (height, width),
            });
            // Detached: no gradients flow through the loop while a network is trained.
            let eps = self.predictor.predict(&x, at, control)?.detach();
            x = self.solver.jump(self.schedule, &x, &eps, jump)?;
            for _ in 0..self.predictor.evaluations(at) {
                observer.observe(Event::Evaluated {
                    step,
                    of: self.timesteps.count(),
                    rows: self.predictor.rows(),
                });
            }
            observer.observe(Event::Value(&format!("step{step}"), &x));
            if let Some(changed) = control.finish(&x)? {
                observer.observe(Event::Value(&format!("step{step}.blended"), &changed));
                x = changed;
            }
        }
        let sum = x.to_dtype(DType::F32)?.abs()?.sum_all()?;
        match sum.to_scalar::<f32>()?.is_finite() {
            true => Ok(x),
            false => Err(Error::Numbers(
                "the network produced values that are not numbers: its weights are damaged, \
                 or overflow in this type"
                    .into(),
            )),
        }
    }
}
