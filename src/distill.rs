//! Training: data, losses and optimiser of both distillations, and training runs that
//! can be interrupted at any time and resumed exactly.
//!
//! All random numbers of a step are derived from the seed of the run and the number of
//! the step, so that the state of a run is its weights, the optimiser's moments and the
//! number of steps.

mod accumulation;
mod adamw;
mod config;
mod consistency;
mod dataset;
mod guidance;
mod lr_schedule;
pub mod objective;
mod report;
mod row_levels;
mod run;
mod samples;
mod stage;
mod step_rng;

pub use accumulation::{GradientAccumulation, Gradients};
pub use adamw::{AdamW, AdamWConfig};
pub use config::{DistillConfig, Precision};
pub use consistency::{ConsistencyStage, Student};
pub use dataset::{Captioned, Dataset, animated, captioned, uncaptioned, unpictured};
pub use guidance::GuidanceStage;
pub use lr_schedule::LrSchedule;
pub use report::write_report;
pub use row_levels::RowLevels;
pub use run::{Metrics, Progress, Run, Trainer};
pub use samples::Samples;
pub use step_rng::StepRng;

use crate::{
    error::Result,
    model::{Conditioning, TextEncoders, unet::Unet},
};

impl DistillConfig {
    /// Prepares a network for training with this optimiser.
    fn learning(&self, unet: Unet, optimiser: &AdamW) -> Unet {
        match self.gradient_checkpointing {
            true => unet.with_gradient_checkpointing(optimiser.gradient_sink()),
            false => unet,
        }
    }

    fn accumulation(&self) -> Result<GradientAccumulation> {
        GradientAccumulation::new(
            self.batch,
            self.gradient_accumulation,
            self.parallel_micro_batches,
        )
    }
}

/// Captioned latents, and the text encoders for the captions.
#[derive(Debug)]
pub struct TrainingData {
    /// The pictures.
    pub dataset: Dataset,
    /// The text encoders.
    pub text: TextEncoders,
    /// The sample pictures to generate during the training, if any.
    pub samples: Option<Samples>,
}

impl TrainingData {
    fn read(&self, indices: &[usize]) -> Result<Conditioning> {
        let captions: Vec<_> = indices.iter().map(|&i| self.dataset.caption(i)).collect();
        Ok(self.text.encode(&captions)?.states)
    }

    fn read_nothing(&self, count: usize) -> Result<Conditioning> {
        Ok(self.text.encode(&vec![""; count])?.states)
    }
}
