//! The sampling loop ([`Walk`]), its noise predictors, controls and observers.

mod classifier_free;
mod null_text;
mod observer;
mod predictor;
mod solver;
mod trajectory;
mod walk;

pub use classifier_free::{ClassifierFree, Unconditional, classifier_free};
pub use null_text::{NullEmbeddings, NullTextOptimiser};
pub use observer::{Event, Observer, Scoped, Silent};
pub use predictor::{BatchConditioning, EmbeddedGuidance, Predictor};
pub use solver::Solver;
pub use trajectory::{Inverted, Trajectory};
pub use walk::{StepInfo, Walk, WalkControl};

pub(crate) use classifier_free::evaluations;
pub(crate) use null_text::evaluations as null_text_evaluations;
pub(crate) use trajectory::Recorder;
