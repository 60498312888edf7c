//! Noise predictors, and a UNet that takes its guidance as an input.

use candle_core::Tensor;

use crate::{
    error::Result,
    guidance::Guidance,
    model::{
        Conditioning,
        attention::AttentionControl,
        unet::{PreparedText, Unet, UnetInput},
    },
    schedule::Timestep,
};

/// Predicts the noise in a batch of a fixed number of rows.
pub trait Predictor {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Number of evaluations of the network at timestep `t`, each of all rows.
    fn evaluations(&self, _t: Timestep) -> usize {
        1
    }

    /// Whether the rows use their early prompts at timestep `t`.
    fn is_early(&self, _t: Timestep) -> bool {
        false
    }

    /// Whether guidance leads some rows further than others at timestep `t`.
    fn is_unevenly_guided(&self, _t: Timestep) -> bool {
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

/// The texts of the rows, prepared once for all steps.
pub(super) struct RowTexts<'a> {
    guidance: &'a [Guidance],
    own: PreparedText,
    early: Option<PreparedText>,
}

impl<'a> RowTexts<'a> {
    pub(super) fn new(unet: &Unet, rows: &'a BatchConditioning) -> Result<Self> {
        let early = rows.early.as_ref().map(|text| unet.prepare(text));
        Ok(Self {
            guidance: &rows.guidance,
            own: unet.prepare(&rows.text)?,
            early: early.transpose()?,
        })
    }

    pub(super) fn guidance(&self) -> &'a [Guidance] {
        self.guidance
    }

    /// Whether the guidance of some rows is stronger than that of others at timestep `t`.
    pub(super) fn is_unevenly_guided(&self, t: Timestep) -> bool {
        let mut strengths = self.guidance.iter().map(|w| w.strength_at(t));
        let first = strengths.next();
        strengths.any(|strength| Some(strength) != first)
    }

    /// Whether those at timestep `t` are the early ones.
    pub(super) fn is_early(&self, t: Timestep) -> bool {
        self.early.is_some() && self.guidance.iter().any(|w| w.tau().is_early(t))
    }

    /// Those at timestep `t`.
    pub(super) fn at(&self, t: Timestep) -> &PreparedText {
        let early = self.early.as_ref().filter(|_| self.is_early(t));
        early.unwrap_or(&self.own)
    }
}

/// A guidance-distilled UNet, which takes the guidance strength as an input: one
/// evaluation per step.
pub struct EmbeddedGuidance<'a> {
    unet: &'a Unet,
    texts: RowTexts<'a>,
}

impl<'a> EmbeddedGuidance<'a> {
    /// Prepares the texts of the rows, once for all steps.
    pub fn new(unet: &'a Unet, rows: &'a BatchConditioning) -> Result<Self> {
        Ok(Self {
            unet,
            texts: RowTexts::new(unet, rows)?,
        })
    }
}

impl Predictor for EmbeddedGuidance<'_> {
    fn rows(&self) -> usize {
        self.texts.guidance().len()
    }

    fn is_early(&self, t: Timestep) -> bool {
        self.texts.is_early(t)
    }

    fn is_unevenly_guided(&self, t: Timestep) -> bool {
        self.texts.is_unevenly_guided(t)
    }

    fn predict(
        &self,
        x: &Tensor,
        t: Timestep,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let guidance = self.texts.guidance().iter();
        let guidance: Vec<f64> = guidance.map(|w| w.strength_at(t)).collect();
        let input = UnetInput {
            latent: x,
            times: &vec![t; guidance.len()],
            guidance: &guidance,
            text: self.texts.at(t),
        };
        self.unet.forward(input, control)
    }
}
