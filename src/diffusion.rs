//! The sampling loop ([`Walk`]), its noise predictors, controls and observers.

mod observer;
mod predictor;
mod trajectory;
mod walk;

pub use observer::{Event, Observer, Scoped, Silent};
pub use predictor::{
    BatchConditioning, ClassifierFree, EmbeddedGuidance, Predictor, classifier_free,
};
pub use trajectory::{Inverted, Trajectory};
pub use walk::{StepInfo, Walk, WalkControl};

pub(crate) use trajectory::Recorder;
