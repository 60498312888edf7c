//! The first stage: a UNet that takes the guidance strength as an input learns
//! what its teacher needs two evaluations for (arXiv 2210.03142).

use std::collections::HashMap;

use candle_core::Tensor;

use super::{
    AdamW, Draws, Learner, Lessons, Material, Measures,
    objective::{Net, Sample, guidance_loss},
};
use crate::{
    error::Result,
    latents::Tensors,
    model::unet::Unet,
    nn::Fresh,
    schedule::{Schedule, TIMESTEPS, Timestep},
};

/// Distils guidance into the weights of a UNet.
pub struct GuidanceStage {
    material: Material,
    schedule: Schedule,
    teacher: Unet,
    student: Unet,
    optimiser: AdamW,
    lessons: Lessons,
}

impl GuidanceStage {
    /// A student whose weights are the variables of `fresh`, begun as the
    /// teacher's with an input for the guidance.
    pub fn new(
        material: Material,
        schedule: Schedule,
        teacher: Unet,
        (student, fresh): (Unet, &Fresh),
        lessons: Lessons,
    ) -> Result<Self> {
        Ok(Self {
            optimiser: AdamW::new(fresh.vars(), lessons.optimiser)?,
            material,
            schedule,
            teacher,
            student,
            lessons,
        })
    }

    /// The student's weights by name, averaged where the lessons say so.
    pub fn weights(&self) -> Tensors {
        self.optimiser.averages()
    }

    fn loss(&self, draws: &mut Draws) -> Result<Tensor> {
        let batch = self.lessons.batch;
        let rows = draws.indices(batch, self.material.dataset.len())?;
        let latent = self.material.dataset.sample(&rows, draws.stream())?;
        let noise = draws.noise(latent.shape(), latent.device())?;
        let guidance = draws.among(batch, &self.lessons.guidance)?;
        let times = draws.indices(batch, TIMESTEPS)?;
        let times: Vec<_> = times.into_iter().map(|t| Timestep(t as u16)).collect();
        let (text, nothing) = (
            self.material.read(&rows)?,
            self.material.read_nothing(batch)?,
        );
        let nets = [
            (&self.student, self.student.read(&text)?),
            (&self.teacher, self.teacher.read(&text)?),
            (&self.teacher, self.teacher.read(&nothing)?),
        ];
        let sample = Sample {
            latent: &latent,
            noise: &noise,
        };
        let nets = nets.each_ref().map(|(unet, text)| Net { unet, text });
        guidance_loss(nets, &self.schedule, sample, &times, &guidance)
    }
}

impl Learner for GuidanceStage {
    fn step(&mut self, step: usize) -> Result<Measures> {
        let loss = self.loss(&mut Draws::new(self.lessons.seed, step))?;
        let norm = self
            .optimiser
            .step(&loss.backward()?, self.lessons.rate.at(step))?;
        let loss = f64::from(loss.to_scalar::<f32>()?);
        Ok(vec![("loss", loss), ("gradient", norm)])
    }

    fn state(&self) -> Result<Tensors> {
        self.optimiser.state("guidance")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.optimiser.restore("guidance", state)
    }
}
