//! Training: what a network learns from, the steps it takes, and runs that may
//! be stopped at any moment and go on as if nothing had happened.
//!
//! Everything random in a step follows from the run's seed and the step's
//! number, so a run's state is its weights, its optimiser's moments and a count.

mod adamw;
mod levels;
pub mod objective;
mod rate;
mod run;

pub use adamw::{AdamW, AdamWConfig};
pub use levels::Levels;
pub use rate::Rate;
pub use run::{Learner, Measures, Progress, Run};
