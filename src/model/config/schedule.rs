//! The noise schedule of a scheduler's configuration.

use serde::Deserialize;

use super::{fields, read};
use crate::{
    error::{Error, Result},
    io::Source,
    schedule::NoiseSchedule,
};

/// The betas of a schedule, which its other fields say nothing of.
#[derive(Deserialize)]
struct ScheduleJson {
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    trained_betas: Option<Vec<f32>>,
}

/// The noise schedule that `file` (scheduler/scheduler_config.json) describes.
pub fn schedule(file: &Source) -> Result<NoiseSchedule> {
    let json: ScheduleJson = read(file, fields::SCHEDULER)?;
    let schedule = match (&json.trained_betas, &json.beta_schedule[..]) {
        (Some(betas), _) => NoiseSchedule::from_betas(betas),
        (None, "scaled_linear") => NoiseSchedule::scaled_linear(json.beta_start, json.beta_end),
        (None, "linear") => NoiseSchedule::linear(json.beta_start, json.beta_end),
        (None, "squaredcos_cap_v2") => NoiseSchedule::cosine(),
        (None, other) => Err(Error::setting(format!(
            "beta_schedule = {other:?} is not supported; it must be scaled_linear, linear or \
             squaredcos_cap_v2"
        ))),
    };
    schedule.map_err(|error| Error::config(file, error))
}
