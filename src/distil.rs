//! Training: what a network learns from, the steps it takes, and runs that may
//! be stopped at any moment and go on as if nothing had happened.
//!
//! Everything random in a step follows from the run's seed and the step's
//! number, so a run's state is its weights, its optimiser's moments and a count.

mod adamw;
mod config;
mod consistency;
mod dataset;
mod draws;
mod guidance;
mod levels;
pub mod objective;
mod parts;
mod rate;
mod report;
mod run;
mod samples;
mod stage;

pub use adamw::{AdamW, AdamWConfig};
pub use config::{DistilConfig, Precision};
pub use consistency::{ConsistencyStage, Preservation, Student};
pub use dataset::{Captioned, Dataset, captioned};
pub use draws::Draws;
pub use guidance::GuidanceStage;
pub use levels::Levels;
pub use parts::{Gradients, Parts};
pub use rate::Rate;
pub use report::write_report;
pub use run::{Learner, Measures, Progress, Run};
pub use samples::Samples;
pub use stage::{consistency_stage, guidance_stage};

use crate::{
    error::Result,
    model::{Conditioning, TextReader, unet::Unet},
};

/// What a stage learns from, and how.
#[derive(Clone, Debug)]
pub struct Lessons {
    /// Rows of one step.
    pub batch: usize,
    /// Parts that they are learnt in.
    pub parts: usize,
    /// Parts that are learnt at the same time.
    pub at_once: usize,
    /// Whether blocks are computed again on the way back.
    pub recompute: bool,
    /// The learning rate of each step.
    pub rate: Rate,
    /// The guidance strengths that are learnt (0 is unguided).
    pub guidance: Vec<f64>,
    /// The settings of the optimisers.
    pub optimiser: AdamWConfig,
    /// All that is random follows from it.
    pub seed: u64,
}

impl Lessons {
    /// The network as it is to learn with this optimiser.
    fn learning(&self, unet: Unet, optimiser: &AdamW) -> Unet {
        match self.recompute {
            true => unet.recomputing(optimiser.aside()),
            false => unet,
        }
    }

    fn parts(&self) -> Result<Parts> {
        Parts::new(self.batch, self.parts, self.at_once)
    }
}

/// Captioned latents, and the reader of the captions.
#[derive(Debug)]
pub struct Material {
    /// The pictures.
    pub dataset: Dataset,
    /// The text encoders.
    pub text: TextReader,
    /// What is drawn on the way, if anything.
    pub samples: Option<Samples>,
}

impl Material {
    fn read(&self, indices: &[usize]) -> Result<Conditioning> {
        let captions: Vec<_> = indices.iter().map(|&i| self.dataset.caption(i)).collect();
        Ok(self.text.read(&captions)?.states)
    }

    fn read_nothing(&self, count: usize) -> Result<Conditioning> {
        Ok(self.text.read(&vec![""; count])?.states)
    }
}
