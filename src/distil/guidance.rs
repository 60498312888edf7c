//! The first stage: a UNet that takes the guidance strength as an input learns
//! what its teacher needs two evaluations for (arXiv 2210.03142).

use std::{collections::HashMap, path::Path as File};

use candle_core::Tensor;

use super::{
    AdamW, Draws, Gradients, Learner, Lessons, Material, Measures, Parts,
    consistency::LAST,
    objective::{Net, Sample, guidance_loss},
};
use crate::{
    error::Result,
    latents::Tensors,
    model::unet::Unet,
    nn::Fresh,
    schedule::{Path, Schedule, TIMESTEPS, Timestep},
};

/// Steps that a sample picture is drawn in.
const DRAWING: u16 = 25;

/// Distils guidance into the weights of a UNet.
pub struct GuidanceStage {
    material: Material,
    schedule: Schedule,
    teacher: Unet,
    student: Unet,
    optimiser: AdamW,
    parts: Parts,
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
        let optimiser = AdamW::new(fresh.vars(), lessons.optimiser)?;
        Ok(Self {
            parts: lessons.parts()?,
            material,
            schedule,
            teacher,
            student: lessons.learning(student, &optimiser),
            optimiser,
            lessons,
        })
    }

    /// The student's weights by name, averaged where the lessons say so.
    pub fn weights(&self) -> Tensors {
        self.optimiser.averages()
    }

    /// The loss of a step, and the gradients of the student's weights.
    fn learn(&self, draws: &mut Draws) -> Result<([f64; 1], Gradients)> {
        let batch = self.lessons.batch;
        let rows = draws.indices(batch, self.material.dataset.len())?;
        let latent = self.material.dataset.sample(&rows, draws.stream())?;
        let noise = draws.noise(latent.shape(), latent.device())?;
        let guidance = draws.among(batch, &self.lessons.guidance)?;
        let times = draws.indices(batch, TIMESTEPS)?;
        let times: Vec<_> = times.into_iter().map(|t| Timestep(t as u16)).collect();
        self.parts.learn(&self.optimiser, |part| {
            let text = self.material.read(&rows[part.clone()])?;
            let nothing = self.material.read_nothing(part.len())?;
            let nets = [
                (&self.student, self.student.read(&text)?),
                (&self.teacher, self.teacher.read(&text)?),
                (&self.teacher, self.teacher.read(&nothing)?),
            ];
            let sample = Sample {
                latent: &latent.narrow(0, part.start, part.len())?,
                noise: &noise.narrow(0, part.start, part.len())?,
            };
            let nets = nets.each_ref().map(|(unet, text)| Net { unet, text });
            let (times, guidance) = (&times[part.clone()], &guidance[part]);
            Ok([guidance_loss(
                nets,
                &self.schedule,
                sample,
                times,
                guidance,
            )?])
        })
    }
}

impl Learner for GuidanceStage {
    fn step(&mut self, step: usize) -> Result<Measures> {
        let ([loss], gradients) = self.learn(&mut Draws::new(self.lessons.seed, step))?;
        let norm = self
            .optimiser
            .step(&gradients, self.lessons.rate.at(step))?;
        Ok(vec![("loss", loss), ("gradient", norm)])
    }

    fn state(&self) -> Result<Tensors> {
        self.optimiser.state("guidance")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.optimiser.restore("guidance", state)
    }

    /// Pictures of the dataset, and below them new ones of their captions.
    fn illustrate(&self, file: &File) -> Result<()> {
        let Some(samples) = &self.material.samples else {
            return Ok(());
        };
        let mut steps: Vec<_> = (0..=DRAWING).map(|i| i * LAST / DRAWING).collect();
        steps.reverse();
        let path = Path::reverse(&steps)?;
        let drawn = samples.drawn(&self.student, &self.schedule, &path)?;
        samples.write(&[drawn], file)
    }
}
