//! The first stage: a UNet with the guidance strength as an input is trained to predict
//! the classifier-free guidance of its teacher in one evaluation (arXiv 2210.03142).

use std::{collections::HashMap, path::Path};

use candle_core::Tensor;

use super::{
    AdamW, GradientAccumulation, Gradients, Metrics, StepRng, Trainer, TrainingData,
    TrainingOptions,
    consistency::LAST,
    objective::{Net, Sample, guidance_loss},
};
use crate::{
    error::Result,
    io::Tensors,
    model::unet::Unet,
    nn::RandomInit,
    schedule::{NoiseSchedule, TIMESTEPS, Timestep, Timesteps},
};

/// Number of steps of sample pictures.
const DRAWING: u16 = 25;

/// The training of a guidance-distilled UNet.
pub struct GuidanceStage {
    data: TrainingData,
    schedule: NoiseSchedule,
    teacher: Unet,
    student: Unet,
    optimiser: AdamW,
    accumulation: GradientAccumulation,
    options: TrainingOptions,
}

impl GuidanceStage {
    /// Creates the stage. The student's weights are the variables of `fresh`, initially the
    /// teacher's.
    pub fn new(
        data: TrainingData,
        schedule: NoiseSchedule,
        teacher: Unet,
        (student, fresh): (Unet, &RandomInit),
        options: TrainingOptions,
    ) -> Result<Self> {
        let optimiser = AdamW::new(fresh.vars(), options.optimiser)?;
        Ok(Self {
            accumulation: options.accumulation()?,
            data,
            schedule,
            teacher,
            student: options.learning(student, &optimiser),
            optimiser,
            options,
        })
    }

    /// The student's weights by name, or their EMA if enabled.
    pub fn weights(&self) -> Tensors {
        self.optimiser.averages()
    }

    /// The loss of a step, and the gradients of the student's weights.
    fn learn(&self, rng: &mut StepRng) -> Result<([f64; 1], Gradients)> {
        let batch = self.options.batch;
        let rows = rng.indices(batch, self.data.dataset.len())?;
        let latent = self.data.dataset.sample(&rows, rng.stream())?;
        let noise = rng.noise(latent.shape(), latent.device())?;
        let guidance = rng.among(batch, &self.options.guidance)?;
        let times = rng.indices(batch, TIMESTEPS)?;
        let times: Vec<_> = times.into_iter().map(|t| Timestep(t as u16)).collect();
        self.accumulation.learn(&self.optimiser, |part| {
            let text = self.data.read(&rows[part.clone()])?;
            let nothing = self.data.read_nothing(part.len())?;
            let nets = [
                (&self.student, self.student.prepare(&text)?),
                (&self.teacher, self.teacher.prepare(&text)?),
                (&self.teacher, self.teacher.prepare(&nothing)?),
            ];
            let sample = Sample {
                latent: &latent.narrow(0, part.start, part.len())?,
                noise: &noise.narrow(0, part.start, part.len())?,
            };
            let nets = nets.each_ref().map(|(unet, text)| Net { unet, text });
            let (times, guidance) = (&times[part.clone()], &guidance[part]);
            let loss = guidance_loss(nets, &self.schedule, sample, times, guidance);
            Ok([loss?])
        })
    }
}

impl Trainer for GuidanceStage {
    fn step(&mut self, step: usize) -> Result<Metrics> {
        let ([loss], gradients) = self.learn(&mut StepRng::new(self.options.seed, step))?;
        let rate = self.options.lr_schedule.at(step);
        let norm = self.optimiser.step(&gradients, rate)?;
        Ok(vec![("loss", loss), ("gradient", norm)])
    }

    fn state(&self) -> Result<Tensors> {
        self.optimiser.state("guidance")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.optimiser.restore("guidance", state)
    }

    /// Pictures of the dataset, and new pictures for their captions.
    fn illustrate(&self, file: &Path) -> Result<()> {
        let Some(samples) = &self.data.samples else {
            return Ok(());
        };
        let mut steps: Vec<_> = (0..=DRAWING).map(|i| i * LAST / DRAWING).collect();
        steps.reverse();
        let path = Timesteps::reverse(&steps)?;
        let drawn = samples.drawn(&self.student, &self.schedule, &path)?;
        samples.write(&[drawn], file)
    }
}
