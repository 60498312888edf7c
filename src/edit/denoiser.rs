//! A network on a walk, and what stays fixed for its rows.

use candle_core::Tensor;

use crate::{
    error::Result,
    guidance::Guidance,
    model::{
        Conditioning,
        attention::AttentionControl,
        unet::{Input, Unet},
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

    fn text_at(&self, t: Timestep) -> &Conditioning {
        let is_early = self
            .guidance
            .iter()
            .any(|guidance| guidance.tau().is_early(t));
        self.early
            .as_ref()
            .filter(|_| is_early)
            .unwrap_or(&self.text)
    }
}

/// Predicts the noise for a fixed set of rows.
pub struct Denoiser<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// Its noise schedule.
    pub schedule: &'a Schedule,
    /// What the rows are told.
    pub rows: &'a Rows,
}

impl Denoiser<'_> {
    /// The noise (rows, 4, h, w) in `x` of the same shape at timestep `t`.
    pub fn predict(
        &self,
        x: &Tensor,
        t: Timestep,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let guidance: Vec<f64> = self
            .rows
            .guidance
            .iter()
            .map(|guidance| guidance.at(t))
            .collect();
        let text = self.rows.text_at(t);
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
