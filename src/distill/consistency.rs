//! The second stage: two adapters of one frozen UNet are trained for inversion and
//! sampling in a few steps (arXiv 2406.14539).

use std::{collections::HashMap, path::Path};

use candle_core::Tensor;

use super::{
    AdamW, GradientAccumulation, Gradients, Metrics, StepRng, Trainer, TrainingData,
    TrainingOptions,
    objective::{Consistency, Net, Sample},
};
use crate::{
    error::Result,
    io::Tensors,
    lora::TrainableAdapter,
    model::{Conditioning, unet::Unet},
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
}

/// The weights of the preservation losses, relative to the consistency losses; 0 disables
/// them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preservation {
    /// Of the forward student.
    pub forward: f64,
    /// Of the reverse student.
    pub reverse: f64,
}

impl Default for Preservation {
    /// The weights of the reference.
    fn default() -> Self {
        Self {
            forward: 1.5,
            reverse: 1.5,
        }
    }
}

/// The training of a pair of adapters.
pub struct ConsistencyStage {
    data: TrainingData,
    schedule: NoiseSchedule,
    teacher: Unet,
    forward: Student,
    reverse: Student,
    optimisers: [AdamW; 2],
    accumulation: GradientAccumulation,
    preservation: Preservation,
    options: TrainingOptions,
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
    const ALL: [Self; 4] = [
        Self::ReverseConsistency,
        Self::ForwardConsistency,
        Self::ForwardPreservation,
        Self::ReversePreservation,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ReverseConsistency => "reverse_consistency",
            Self::ForwardConsistency => "forward_consistency",
            Self::ForwardPreservation => "forward_preservation",
            Self::ReversePreservation => "reverse_preservation",
        }
    }

    /// The index of the student and its optimiser: 0 forward, 1 reverse.
    fn student(self) -> usize {
        match self {
            Self::ForwardConsistency | Self::ForwardPreservation => 0,
            Self::ReverseConsistency | Self::ReversePreservation => 1,
        }
    }
}

impl ConsistencyStage {
    /// Creates the stage.
    pub fn new(
        data: TrainingData,
        schedule: NoiseSchedule,
        teacher: Unet,
        [forward, reverse]: [Student; 2],
        preservation: Preservation,
        options: TrainingOptions,
    ) -> Result<Self> {
        let optimiser = |student: &Student| AdamW::new(student.adapter.vars(), options.optimiser);
        let optimisers = [optimiser(&forward)?, optimiser(&reverse)?];
        let learning = |student: Student, optimiser| Student {
            unet: options.learning(student.unet, optimiser),
            ..student
        };
        Ok(Self {
            forward: learning(forward, &optimisers[0]),
            reverse: learning(reverse, &optimisers[1]),
            optimisers,
            accumulation: options.accumulation()?,
            data,
            schedule,
            teacher,
            preservation,
            options,
        })
    }

    /// The forward and the reverse student, with the tensors of their adapters.
    pub fn students(&self) -> [(&Student, Tensors); 2] {
        let [forward, reverse] = &self.optimisers;
        [
            (&self.forward, forward.averages()),
            (&self.reverse, reverse.averages()),
        ]
    }

    fn weight(&self, loss: Loss) -> f64 {
        match loss {
            Loss::ForwardPreservation => self.preservation.forward,
            Loss::ReversePreservation => self.preservation.reverse,
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
        let batch = self.options.batch;
        let noise = rng.noise(latent.shape(), latent.device())?;
        let times = rng.among(batch, &self.times(loss))?;
        let guidance = match loss {
            Loss::ReverseConsistency => rng.among(batch, &self.options.guidance)?,
            _ => vec![0.0; batch],
        };
        let optimiser = &self.optimisers[loss.student()];
        self.accumulation.learn(optimiser, |part| {
            let sample = Sample {
                latent: &latent.narrow(0, part.start, part.len())?,
                noise: &noise.narrow(0, part.start, part.len())?,
            };
            let text = text.rows(part.clone())?;
            let (times, guidance) = (&times[part.clone()], &guidance[part]);
            let value = self.loss(loss, sample, &text, times, guidance)?;
            Ok([(&value * self.weight(loss))?, value])
        })
    }

    fn loss(
        &self,
        loss: Loss,
        sample: Sample,
        text: &Conditioning,
        times: &[Timestep],
        guidance: &[f64],
    ) -> Result<Tensor> {
        let unets = [&self.teacher, &self.forward.unet, &self.reverse.unet];
        let texts = [
            unets[0].prepare(text)?,
            unets[1].prepare(text)?,
            unets[2].prepare(text)?,
        ];
        let net = |i: usize| Net {
            unet: unets[i],
            text: &texts[i],
        };
        let losses = Consistency {
            schedule: &self.schedule,
            forward_timesteps: &self.forward.path,
            reverse_timesteps: &self.reverse.path,
            stride: STRIDE,
            teacher: net(0),
            forward: net(1),
            reverse: net(2),
        };
        match loss {
            Loss::ReverseConsistency => losses.reverse_consistency(sample, times, guidance),
            Loss::ForwardConsistency => losses.forward_consistency(sample, times),
            Loss::ForwardPreservation => losses.forward_preservation(sample, times),
            Loss::ReversePreservation => losses.reverse_preservation(sample, times),
        }
    }

    /// The timesteps from which those of a loss are drawn.
    fn times(&self, loss: Loss) -> Vec<Timestep> {
        let grid = |last| (FIRST..=last).step_by(usize::from(STRIDE)).map(Timestep);
        let starts = |path: &Timesteps| path.jumps().map(|jump| jump.from).collect();
        match loss {
            Loss::ReverseConsistency => grid(LAST).collect(),
            Loss::ForwardConsistency => grid(LAST - STRIDE).collect(),
            Loss::ForwardPreservation => starts(&self.reverse.path),
            Loss::ReversePreservation => starts(&self.forward.path),
        }
    }
}

impl Trainer for ConsistencyStage {
    fn step(&mut self, step: usize) -> Result<Metrics> {
        let mut rng = StepRng::new(self.options.seed, step);
        let rows = rng.indices(self.options.batch, self.data.dataset.len())?;
        let latent = self.data.dataset.sample(&rows, rng.stream())?;
        let text = self.data.read(&rows)?;
        let mut metrics = Vec::new();
        for loss in Loss::ALL {
            if self.weight(loss) == 0.0 {
                continue;
            }
            let ([_, value], gradients) = self.learn(loss, &latent, &text, &mut rng)?;
            let rate = self.options.lr_schedule.at(step);
            self.optimisers[loss.student()].step(&gradients, rate)?;
            metrics.push((loss.name(), value));
        }
        Ok(metrics)
    }

    fn state(&self) -> Result<Tensors> {
        let [forward, reverse] = &self.optimisers;
        Ok([forward.state("forward")?, reverse.state("reverse")?].concat())
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let [forward, reverse] = &mut self.optimisers;
        forward.restore("forward", state)?;
        reverse.restore("reverse", state)
    }

    /// Pictures of the dataset, their unguided reconstructions, and new pictures for their
    /// captions.
    fn illustrate(&self, file: &Path) -> Result<()> {
        let Some(samples) = &self.data.samples else {
            return Ok(());
        };
        let ways = [&self.forward, &self.reverse].map(|student| (&student.unet, &student.path));
        let returned = samples.returned(&self.schedule, ways)?;
        let (reverse, path) = ways[1];
        let drawn = samples.drawn(reverse, &self.schedule, path)?;
        samples.write(&[returned, drawn], file)
    }
}
