//! The second stage: two adapters of one frozen UNet are trained for inversion and
//! sampling in a few steps (arXiv 2406.14539).

use std::{collections::HashMap, path::Path};

use candle_core::Tensor;

use super::{
    AdamW, DistillConfig, GradientAccumulation, Gradients, Metrics, StepRng, Trainer, TrainingData,
    objective::{Consistency, Net, Sample},
};
use crate::{
    error::Result,
    io::Tensors,
    lora::TrainableAdapter,
    model::{Conditioning, Model, unet::Unet},
    nn::{SharedLayers, Weights},
    schedule::{NoiseSchedule, Timestep, Timesteps},
};

/// Distance of the teacher's timesteps: 50 DDIM steps.
pub(super) const STRIDE: u16 = 20;
/// The teacher's first timestep.
pub(super) const FIRST: u16 = 19;
/// The timestep of pure noise.
pub(super) const LAST: u16 = 999;

/// A network whose adapter is trained.
pub struct Student {
    /// The network with the adapter as LoRA branches.
    pub unet: Unet,
    /// The adapter.
    pub adapter: TrainableAdapter,
    /// The timesteps of the adapter.
    pub path: Timesteps,
    /// The optimiser of the adapter's weights.
    pub optimiser: AdamW,
}

/// The training of a pair of adapters.
pub struct ConsistencyStage {
    data: TrainingData,
    schedule: NoiseSchedule,
    teacher: Unet,
    /// Forward and reverse.
    students: [Student; 2],
    accumulation: GradientAccumulation,
    config: DistillConfig,
}

/// The four losses, in the order of their steps.
#[derive(Clone, Copy)]
enum Loss {
    ReverseConsistency,
    ForwardConsistency,
    ForwardPreservation,
    ReversePreservation,
}

impl Loss {
    /// All, with the names of their metrics.
    const NAMED: [(&'static str, Self); 4] = [
        ("reverse_consistency", Self::ReverseConsistency),
        ("forward_consistency", Self::ForwardConsistency),
        ("forward_preservation", Self::ForwardPreservation),
        ("reverse_preservation", Self::ReversePreservation),
    ];

    /// The index of the student: 0 forward, 1 reverse.
    fn student(self) -> usize {
        match self {
            Self::ForwardConsistency | Self::ForwardPreservation => 0,
            Self::ReverseConsistency | Self::ReversePreservation => 1,
        }
    }
}

impl ConsistencyStage {
    /// Creates the stage for a guidance-distilled model.
    pub fn new(model: &Model, config: &DistillConfig, data: TrainingData) -> Result<Self> {
        let checkpoint = model.unet_checkpoint()?;
        let (shared, placement) = (SharedLayers::default(), model.placement());
        let weights = Weights::new(&checkpoint, placement).with_shared_layers(&shared);
        let unet = |weights: &Weights| Unet::new(weights, model.unet_config().clone());
        let teacher = unet(&weights)?;
        if !teacher.takes_guidance() {
            return Err(checkpoint.fault(
                "it is not guidance-distilled: run the guidance stage first and use its unet",
            ));
        }
        let student = |path: Timesteps, seed: u64| -> Result<Student> {
            let adapter =
                TrainableAdapter::new(&checkpoint, config.adapter(), seed, &placement.device)?;
            let optimiser = AdamW::new(adapter.vars(), config.optimiser())?;
            let unet = unet(&weights.clone().with_lora(&adapter.deltas()))?;
            Ok(Student {
                unet: config.learning(unet, &optimiser),
                adapter,
                path,
                optimiser,
            })
        };
        let [forward, reverse] = config.paths()?;
        Ok(Self {
            students: [
                student(forward, config.seed)?,
                student(reverse, config.seed.wrapping_add(1))?,
            ],
            schedule: model.schedule().clone(),
            accumulation: config.accumulation()?,
            config: config.clone(),
            data,
            teacher,
        })
    }

    /// The forward and the reverse student.
    pub fn students(&self) -> &[Student; 2] {
        &self.students
    }

    fn weight(&self, loss: Loss) -> f64 {
        match loss {
            Loss::ForwardPreservation => self.config.forward_preservation,
            Loss::ReversePreservation => self.config.reverse_preservation,
            Loss::ReverseConsistency | Loss::ForwardConsistency => 1.0,
        }
    }

    /// A loss over the whole batch, weighted and unweighted, and the gradients of the
    /// weighted one.
    fn learn(
        &self,
        loss: Loss,
        latent: &Tensor,
        text: &Conditioning,
        rng: &mut StepRng,
    ) -> Result<([f64; 2], Gradients)> {
        let batch = self.config.batch;
        let noise = rng.stream().normal(latent.shape(), latent.device())?;
        let times = rng.among(batch, &self.times(loss))?;
        let guidance = match loss {
            Loss::ReverseConsistency => rng.among(batch, &self.config.guidance)?,
            _ => vec![0.0; batch],
        };
        let optimiser = &self.students[loss.student()].optimiser;
        self.accumulation.learn(optimiser, |part| {
            let sample = Sample {
                latent: &latent.narrow(0, part.start, part.len())?,
                noise: &noise.narrow(0, part.start, part.len())?,
                times: &times[part.clone()],
            };
            let text = text.rows(part.clone())?;
            let value = self.loss(loss, sample, &text, &guidance[part])?;
            Ok([(&value * self.weight(loss))?, value])
        })
    }

    fn loss(
        &self,
        loss: Loss,
        sample: Sample,
        text: &Conditioning,
        guidance: &[f64],
    ) -> Result<Tensor> {
        let [forward, reverse] = &self.students;
        let unets = [&self.teacher, &forward.unet, &reverse.unet];
        let texts = unets.map(|unet| unet.prepare(text));
        let texts: Vec<_> = texts.into_iter().collect::<Result<_>>()?;
        let net = |i: usize| Net {
            unet: unets[i],
            text: &texts[i],
        };
        let losses = Consistency {
            schedule: &self.schedule,
            forward_timesteps: &forward.path,
            reverse_timesteps: &reverse.path,
            stride: STRIDE,
            teacher: net(0),
            forward: net(1),
            reverse: net(2),
        };
        match loss {
            Loss::ReverseConsistency => losses.reverse_consistency(sample, guidance),
            Loss::ForwardConsistency => losses.forward_consistency(sample),
            Loss::ForwardPreservation => losses.forward_preservation(sample),
            Loss::ReversePreservation => losses.reverse_preservation(sample),
        }
    }

    /// The timesteps from which those of a loss are drawn.
    fn times(&self, loss: Loss) -> Vec<Timestep> {
        let grid = |last| (FIRST..=last).step_by(usize::from(STRIDE)).map(Timestep);
        let [forward, reverse] = &self.students;
        let starts = |student: &Student| student.path.jumps().map(|jump| jump.from).collect();
        match loss {
            Loss::ReverseConsistency => grid(LAST).collect(),
            Loss::ForwardConsistency => grid(LAST - STRIDE).collect(),
            Loss::ForwardPreservation => starts(reverse),
            Loss::ReversePreservation => starts(forward),
        }
    }
}

impl Trainer for ConsistencyStage {
    fn step(&mut self, step: usize) -> Result<Metrics> {
        let mut rng = StepRng::new(self.config.seed, step);
        let rows = rng.indices(self.config.batch, self.data.dataset.len())?;
        let latent = self.data.dataset.sample(&rows, rng.stream())?;
        let text = self.data.read(&rows)?;
        let mut metrics = Vec::new();
        for (name, loss) in Loss::NAMED {
            if self.weight(loss) == 0.0 {
                continue;
            }
            let ([_, value], gradients) = self.learn(loss, &latent, &text, &mut rng)?;
            let rate = self.config.learning_rate_at(step);
            let optimiser = &mut self.students[loss.student()].optimiser;
            optimiser.step(&gradients, rate)?;
            metrics.push((name, value));
        }
        Ok(metrics)
    }

    fn state(&self) -> Result<Tensors> {
        let [forward, reverse] = self.students.each_ref().map(|student| &student.optimiser);
        Ok([forward.state("forward")?, reverse.state("reverse")?].concat())
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let [forward, reverse] = self.students.each_mut();
        forward.optimiser.restore("forward", state)?;
        reverse.optimiser.restore("reverse", state)
    }

    /// Pictures of the dataset, their unguided reconstructions, and new pictures for their
    /// captions.
    fn illustrate(&self, file: &Path) -> Result<()> {
        let Some(samples) = &self.data.samples else {
            return Ok(());
        };
        let ways = self.students.each_ref();
        let ways = ways.map(|student| (&student.unet, &student.path));
        let returned = samples.returned(&self.schedule, ways)?;
        let (reverse, path) = ways[1];
        let drawn = samples.drawn(reverse, &self.schedule, path)?;
        samples.write(&[returned, drawn], file)
    }
}
