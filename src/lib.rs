//! scratch
pub mod edit;
pub mod error;
pub mod file;
pub mod guidance;
pub mod hub;
pub mod kernel;
pub mod latents;
pub mod lora;
pub mod model;
pub mod nn;
pub mod noise;
pub mod picture;
pub mod prompt;
pub mod schedule;

pub use error::{Error, Result};
