//! The first stage: a UNet with the guidance strength as an input is trained to predict
//! the classifier-free guidance of its teacher in one evaluation (arXiv 2210.03142).

use std::{collections::HashMap, path::Path};

use candle_core::Tensor;

use super::{
    AdamW, DistillConfig, GradientAccumulation, Gradients, Metrics, StepRng, Trainer, TrainingData,
    consistency::LAST,
    objective::{Net, Sample, guidance_loss},
};
use crate::{
    error::Result,
    io::Tensors,
    model::{
        Adapters, Model,
        unet::{Unet, UnetConfig, embedding::TimeCondProj},
    },
    nn::{RandomInit, Weights},
    schedule::{NoiseSchedule, TIMESTEPS, Timestep, Timesteps},
};

/// Number of steps of sample pictures.
const DRAWING: u16 = 25;
/// Width of the guidance embedding, as in the released models.
pub(super) const GUIDANCE_WIDTH: usize = 512;
/// The projection of that embedding, which the teacher does not have.
const PROJECTION: &str = "time_embedding.cond_proj.weight";

/// The training of a guidance-distilled UNet.
pub struct GuidanceStage {
    data: TrainingData,
    schedule: NoiseSchedule,
    teacher: Unet,
    student: Unet,
    optimiser: AdamW,
    accumulation: GradientAccumulation,
    config: DistillConfig,
}

impl GuidanceStage {
    /// Creates the stage. The student's weights are initially the teacher's.
    pub fn new(model: &Model, config: &DistillConfig, data: TrainingData) -> Result<Self> {
        let width = model.unet_config().levels[0].channels;
        let init = RandomInit::new(config.seed)
            .starting_from(model.unet_checkpoint()?)
            .with(PROJECTION, &[width, GUIDANCE_WIDTH])
            .trainable();
        let placement = model.placement().in_f32();
        let weights = Weights::initial(&init, &placement);
        let config_of_student = UnetConfig {
            time_cond_proj: TimeCondProj::AsStored,
            ..model.unet_config().clone()
        };
        let student = Unet::new(&weights, config_of_student)?;
        let optimiser = AdamW::new(init.vars(), config.optimiser())?;
        Ok(Self {
            schedule: model.schedule().clone(),
            teacher: model.unet(Adapters::None)?,
            student: config.learning(student, &optimiser),
            accumulation: config.accumulation()?,
            config: config.clone(),
            data,
            optimiser,
        })
    }

    /// The student's weights by name, or their EMA if enabled.
    pub fn weights(&self) -> Tensors {
        self.optimiser.averages()
    }

    /// The loss of a step, and the gradients of the student's weights.
    fn learn(&self, rng: &mut StepRng) -> Result<([f64; 1], Gradients)> {
        let batch = self.config.batch;
        let rows = rng.indices(batch, self.data.dataset.len())?;
        let latent = self.data.dataset.sample(&rows, rng.stream())?;
        let noise = rng.stream().normal(latent.shape(), latent.device())?;
        let guidance = rng.among(batch, &self.config.guidance)?;
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
                times: &times[part.clone()],
            };
            let nets = nets.each_ref().map(|(unet, text)| Net { unet, text });
            let loss = guidance_loss(nets, &self.schedule, sample, &guidance[part])?;
            Ok([loss])
        })
    }
}

impl Trainer for GuidanceStage {
    fn step(&mut self, step: usize) -> Result<Metrics> {
        let ([loss], gradients) = self.learn(&mut StepRng::new(self.config.seed, step))?;
        let rate = self.config.learning_rate_at(step);
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
