//! A network on a walk, and what stays fixed for its rows.

use candle_core::Tensor;

use crate::{
    error::Result,
    guidance::Guidance,
    model::{
        Conditioning,
        attention::AttentionControl,
        unet::{Input, ReadText, Unet},
    },
    schedule::{Schedule, Timestep},
};

/// What each row of a walk is told.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The text of each row.
    pub text: Conditioning,
    /// The text that rules instead while a row's guidance is not yet full.
    pub early: Option<Conditioning>,
    /// The guidance of each row.
    pub guidance: Vec<Guidance>,
}

impl Rows {
    /// A single row.
    pub fn one(text: Conditioning, guidance: Guidance) -> Self {
        Self {
            text,
            early: None,
            guidance: vec![guidance],
        }
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.guidance.len()
    }
}

/// Predicts the noise for a fixed set of rows.
pub struct Denoiser<'a> {
    unet: &'a Unet,
    schedule: &'a Schedule,
    guidance: &'a [Guidance],
    text: ReadText,
    early: Option<ReadText>,
}

impl<'a> Denoiser<'a> {
    /// A network, its noise schedule, and what the rows are told, which is read
    /// here once for the whole walk.
    pub fn new(unet: &'a Unet, schedule: &'a Schedule, rows: &'a Rows) -> Result<Self> {
        let early = rows.early.as_ref().map(|text| unet.read(text));
        Ok(Self {
            unet,
            schedule,
            guidance: &rows.guidance,
            text: unet.read(&rows.text)?,
            early: early.transpose()?,
        })
    }

    /// The noise schedule.
    pub fn schedule(&self) -> &Schedule {
        self.schedule
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.guidance.len()
    }

    fn text_at(&self, t: Timestep) -> &ReadText {
        let is_early = |guidance: &Guidance| guidance.tau().is_early(t);
        self.early
            .as_ref()
            .filter(|_| self.guidance.iter().any(is_early))
            .unwrap_or(&self.text)
    }

    /// The noise (rows, 4, h, w) in `x` of the same shape at timestep `t`.
    pub fn predict(
        &self,
        x: &Tensor,
        t: Timestep,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let guidance: Vec<f64> = self
            .guidance
            .iter()
            .map(|guidance| guidance.at(t))
            .collect();
        let text = self.text_at(t);
        self.unet.forward(
            Input {
                latent: x,
                times: &vec![t; guidance.len()],
                guidance: &guidance,
                text,
            },
            control,
        )
    }
}
