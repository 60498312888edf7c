//! The second stage: two adapters of one frozen UNet learn to walk into noise
//! and back in a few steps (arXiv 2406.14539).

use std::{collections::HashMap, path::Path as File};

use candle_core::Tensor;

use super::{
    AdamW, Draws, Gradients, Learner, Lessons, Material, Measures, Parts,
    objective::{Consistency, Net, Sample},
};
use crate::{
    error::Result,
    latents::Tensors,
    lora::TrainableAdapter,
    model::{Conditioning, unet::Unet},
    schedule::{Path, Schedule, Timestep},
};

/// The teacher's timesteps between two of its steps: 50 steps of DDIM.
pub(super) const STRIDE: u16 = 20;
/// The teacher's first timestep.
pub(super) const FIRST: u16 = 19;
/// The timestep of pure noise.
pub(super) const LAST: u16 = 999;

/// A network whose adapter is trained.
pub struct Student {
    /// The network, with the adapter's changes beside its layers.
    pub unet: Unet,
    /// The adapter.
    pub adapter: TrainableAdapter,
    /// The path it learns.
    pub path: Path,
}

/// What the two losses of preservation weigh beside those of consistency; with
/// 0 they are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preservation {
    /// Of the forward student.
    pub forward: f64,
    /// Of the reverse student.
    pub reverse: f64,
}

impl Default for Preservation {
    /// The reference's.
    fn default() -> Self {
        Self {
            forward: 1.5,
            reverse: 1.5,
        }
    }
}

/// Distils a pair of adapters.
pub struct ConsistencyStage {
    material: Material,
    schedule: Schedule,
    teacher: Unet,
    forward: Student,
    reverse: Student,
    optimisers: [AdamW; 2],
    parts: Parts,
    preservation: Preservation,
    lessons: Lessons,
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

    /// The optimiser of the student that learns by it: 0 forward, 1 reverse.
    fn student(self) -> usize {
        match self {
            Self::ForwardConsistency | Self::ForwardPreservation => 0,
            Self::ReverseConsistency | Self::ReversePreservation => 1,
        }
    }
}

impl ConsistencyStage {
    /// The students of a teacher.
    pub fn new(
        material: Material,
        schedule: Schedule,
        teacher: Unet,
        [forward, reverse]: [Student; 2],
        preservation: Preservation,
        lessons: Lessons,
    ) -> Result<Self> {
        let optimiser = |student: &Student| AdamW::new(student.adapter.vars(), lessons.optimiser);
        let optimisers = [optimiser(&forward)?, optimiser(&reverse)?];
        let learning = |student: Student, optimiser| Student {
            unet: lessons.learning(student.unet, optimiser),
            ..student
        };
        Ok(Self {
            forward: learning(forward, &optimisers[0]),
            reverse: learning(reverse, &optimisers[1]),
            optimisers,
            parts: lessons.parts()?,
            material,
            schedule,
            teacher,
            preservation,
            lessons,
        })
    }

    /// The forward and the reverse student, each with its adapter's tensors.
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

    /// A loss over the whole batch, and the weighted gradients of its student.
    fn learn(
        &self,
        loss: Loss,
        latent: &Tensor,
        text: &Conditioning,
        draws: &mut Draws,
    ) -> Result<([f64; 2], Gradients)> {
        let batch = self.lessons.batch;
        let noise = draws.noise(latent.shape(), latent.device())?;
        let times = draws.among(batch, &self.times(loss))?;
        let guidance = match loss {
            Loss::ReverseConsistency => draws.among(batch, &self.lessons.guidance)?,
            _ => vec![0.0; batch],
        };
        let optimiser = &self.optimisers[loss.student()];
        self.parts.learn(optimiser, |part| {
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
            unets[0].read(text)?,
            unets[1].read(text)?,
            unets[2].read(text)?,
        ];
        let net = |i: usize| Net {
            unet: unets[i],
            text: &texts[i],
        };
        let losses = Consistency {
            schedule: &self.schedule,
            forward_path: &self.forward.path,
            reverse_path: &self.reverse.path,
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

    /// The timesteps that a loss begins at.
    fn times(&self, loss: Loss) -> Vec<Timestep> {
        let grid = |last| (FIRST..=last).step_by(usize::from(STRIDE)).map(Timestep);
        let starts = |path: &Path| path.segments().map(|segment| segment.from).collect();
        match loss {
            Loss::ReverseConsistency => grid(LAST).collect(),
            Loss::ForwardConsistency => grid(LAST - STRIDE).collect(),
            Loss::ForwardPreservation => starts(&self.reverse.path),
            Loss::ReversePreservation => starts(&self.forward.path),
        }
    }
}

impl Learner for ConsistencyStage {
    fn step(&mut self, step: usize) -> Result<Measures> {
        let mut draws = Draws::new(self.lessons.seed, step);
        let rows = draws.indices(self.lessons.batch, self.material.dataset.len())?;
        let latent = self.material.dataset.sample(&rows, draws.stream())?;
        let text = self.material.read(&rows)?;
        let mut measures = Vec::new();
        for loss in Loss::ALL {
            let weight = self.weight(loss);
            if weight == 0.0 {
                continue;
            }
            let ([_, value], gradients) = self.learn(loss, &latent, &text, &mut draws)?;
            let rate = self.lessons.rate.at(step);
            self.optimisers[loss.student()].step(&gradients, rate)?;
            measures.push((loss.name(), value));
        }
        Ok(measures)
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

    /// Pictures of the dataset; below them what comes back of them, unguided;
    /// below that new ones of their captions.
    fn illustrate(&self, file: &File) -> Result<()> {
        let Some(samples) = &self.material.samples else {
            return Ok(());
        };
        let ways = [&self.forward, &self.reverse].map(|student| (&student.unet, &student.path));
        let returned = samples.returned(&self.schedule, ways)?;
        let (reverse, path) = ways[1];
        let drawn = samples.drawn(reverse, &self.schedule, path)?;
        samples.write(&[returned, drawn], file)
    }
}
