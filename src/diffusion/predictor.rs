//! Noise predictors: a UNet with guidance.

use candle_core::Tensor;

use crate::{
    error::Result,
    guidance::Guidance,
    model::{
        Conditioning,
        attention::{AttentionControl, NoControl},
        unet::{PreparedText, Unet, UnetInput},
    },
    schedule::Timestep,
};

/// Predicts the noise in a batch of a fixed number of rows.
pub trait Predictor {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Whether the rows use their early prompts at timestep `t`.
    fn is_early(&self, _t: Timestep) -> bool {
        false
    }

    /// Predicts the noise (rows, 4, h, w) in `x` of the same shape at timestep `t`.
    fn predict(
        &self,
        x: &Tensor,
        t: Timestep,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor>;
}

/// The conditioning of each row of a batch.
#[derive(Clone, Debug)]
pub struct BatchConditioning {
    /// The text of each row.
    pub text: Conditioning,
    /// The text of all rows in steps in which the guidance of any row is reduced; a row
    /// without an early prompt repeats its own.
    pub early: Option<Conditioning>,
    /// The guidance of each row.
    pub guidance: Vec<Guidance>,
}

impl BatchConditioning {
    /// The conditioning of a single row.
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

/// A guidance-distilled UNet, which takes the guidance strength as an input: one
/// evaluation per step.
pub struct EmbeddedGuidance<'a> {
    unet: &'a Unet,
    guidance: &'a [Guidance],
    text: PreparedText,
    early: Option<PreparedText>,
}

impl<'a> EmbeddedGuidance<'a> {
    /// Prepares the texts of the rows, once for all steps.
    pub fn new(unet: &'a Unet, rows: &'a BatchConditioning) -> Result<Self> {
        let early = rows.early.as_ref().map(|text| unet.prepare(text));
        Ok(Self {
            unet,
            guidance: &rows.guidance,
            text: unet.prepare(&rows.text)?,
            early: early.transpose()?,
        })
    }
}

impl Predictor for EmbeddedGuidance<'_> {
    fn rows(&self) -> usize {
        self.guidance.len()
    }

    fn is_early(&self, t: Timestep) -> bool {
        self.early.is_some() && self.guidance.iter().any(|w| w.tau().is_early(t))
    }

    fn predict(
        &self,
        x: &Tensor,
        t: Timestep,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let guidance: Vec<f64> = self.guidance.iter().map(|w| w.at(t)).collect();
        let early = self.early.as_ref().filter(|_| self.is_early(t));
        let input = UnetInput {
            latent: x,
            times: &vec![t; guidance.len()],
            guidance: &guidance,
            text: early.unwrap_or(&self.text),
        };
        self.unet.forward(input, control)
    }
}

/// A UNet without guidance input: two evaluations per step, the second with the empty
/// prompt (classifier-free guidance, arXiv 2207.12598).
pub struct ClassifierFree<'a> {
    unet: &'a Unet,
    guidance: Vec<Guidance>,
    text: PreparedText,
    empty: PreparedText,
}

impl<'a> ClassifierFree<'a> {
    /// Prepares the texts of the rows, and `empty` of as many rows of the empty prompt.
    pub fn new(unet: &'a Unet, rows: &BatchConditioning, empty: &Conditioning) -> Result<Self> {
        Ok(Self {
            unet,
            guidance: rows.guidance.clone(),
            text: unet.prepare(&rows.text)?,
            empty: unet.prepare(empty)?,
        })
    }
}

impl Predictor for ClassifierFree<'_> {
    fn rows(&self) -> usize {
        self.guidance.len()
    }

    fn predict(
        &self,
        x: &Tensor,
        t: Timestep,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let (times, unguided) = (vec![t; self.rows()], vec![0.0; self.rows()]);
        let input = |text| UnetInput {
            latent: x,
            times: &times,
            guidance: &unguided,
            text,
        };
        let with_text = self.unet.forward(input(&self.text), control)?;
        let without = self.unet.forward(input(&self.empty), &mut NoControl)?;
        let guidance: Vec<f64> = self.guidance.iter().map(|w| w.at(t)).collect();
        classifier_free(&with_text, &without, &guidance)
    }
}

/// `without + (w + 1) (with_text - without)` for noise (rows, 4, h, w) and the
/// strength w of each row; w = 0 returns `with_text`.
pub fn classifier_free(with_text: &Tensor, without: &Tensor, guidance: &[f64]) -> Result<Tensor> {
    let scales: Vec<_> = guidance.iter().map(|w| (w + 1.0) as f32).collect();
    let scales = Tensor::from_vec(scales, ((), 1, 1, 1), without.device())?;
    Ok((without + (with_text - without)?.broadcast_mul(&scales)?)?)
}
