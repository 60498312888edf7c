//! Classifier-free guidance (arXiv 2207.12598): two evaluations per step, with the text of
//! each row and with another one that guidance leads away from.

use candle_core::Tensor;

use super::{
    NullEmbeddings, Predictor,
    predictor::{BatchConditioning, RowTexts},
};
use crate::{
    error::Result,
    guidance::Guidance,
    model::{
        Conditioning,
        attention::{Attend, AttentionControl, Intervention, Site},
        unet::{PreparedText, Unet, UnetInput},
    },
    schedule::Timestep,
};

/// The text that guidance leads away from, in the place of each row's own.
#[derive(Clone, Debug)]
pub enum Unconditional {
    /// The same in all steps: that of the empty prompt, of a negative one, or, in
    /// negative-prompt inversion, of the source. A row, or as many as there are of the batch.
    Fixed(Conditioning),
    /// Null-text inversion: what was optimised for each step, with the pooled text embeddings
    /// (1, width) of the text that the optimisation began with.
    PerStep {
        /// The embeddings of the steps.
        embeddings: NullEmbeddings,
        /// SDXL's pooled text embeddings.
        pooled: Option<Tensor>,
    },
}

/// A UNet without guidance input, or with a guidance of 0 there: each step evaluates it twice,
/// with the texts of the rows and with the unconditional one. Steps in which no row is guided
/// need only the first.
///
/// Controls of maps act on the evaluation with texts; see
/// [`unconditional_intervention`](AttentionControl::unconditional_intervention) for the other.
pub struct ClassifierFree<'a> {
    unet: &'a Unet,
    texts: RowTexts<'a>,
    unconditional: Prepared,
}

enum Prepared {
    Fixed(PreparedText),
    PerStep(NullEmbeddings, Option<Tensor>),
}

impl<'a> ClassifierFree<'a> {
    /// Prepares the texts of the rows.
    pub fn new(
        unet: &'a Unet,
        rows: &'a BatchConditioning,
        unconditional: &Unconditional,
    ) -> Result<Self> {
        let unconditional = match unconditional {
            Unconditional::Fixed(text) => {
                let text = text.spread(rows.count())?;
                Prepared::Fixed(unet.prepare(&text)?)
            }
            Unconditional::PerStep { embeddings, pooled } => {
                Prepared::PerStep(embeddings.clone(), pooled.clone())
            }
        };
        Ok(Self {
            unet,
            texts: RowTexts::new(unet, rows)?,
            unconditional,
        })
    }

    /// The strength of each row.
    fn strengths(&self, t: Timestep) -> Vec<f64> {
        let rows = self.texts.guidance().iter();
        rows.map(|guidance: &Guidance| guidance.strength_at(t))
            .collect()
    }

    fn evaluated(
        &self,
        (x, t): (&Tensor, Timestep),
        text: &PreparedText,
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let input = UnetInput {
            latent: x,
            times: &vec![t; self.rows()],
            guidance: &vec![0.0; self.rows()],
            text,
        };
        self.unet.forward(input, control)
    }

    fn without_text(
        &self,
        (x, t): (&Tensor, Timestep),
        control: &mut dyn AttentionControl,
    ) -> Result<Tensor> {
        let mut control = WithoutText(control);
        match &self.unconditional {
            Prepared::Fixed(text) => self.evaluated((x, t), text, &mut control),
            // Of each step anew: those of all would take much memory.
            Prepared::PerStep(embeddings, pooled) => {
                let text = embeddings.conditioning(t, pooled.as_ref())?;
                let text = self.unet.prepare(&text.spread(self.rows())?)?;
                self.evaluated((x, t), &text, &mut control)
            }
        }
    }
}

impl Predictor for ClassifierFree<'_> {
    fn rows(&self) -> usize {
        self.texts.guidance().len()
    }

    fn evaluations(&self, t: Timestep) -> usize {
        evaluations(self.texts.guidance(), t)
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
        let with_text = self.evaluated((x, t), self.texts.at(t), control)?;
        if self.evaluations(t) == 1 {
            return Ok(with_text);
        }
        let without = self.without_text((x, t), control)?;
        classifier_free(&with_text, &without, &self.strengths(t))
    }
}

/// The evaluations of a step with classifier-free guidance: one if no row is guided.
pub(crate) fn evaluations(guidance: &[Guidance], t: Timestep) -> usize {
    match guidance.iter().any(|row| row.strength_at(t) != 0.0) {
        true => 2,
        false => 1,
    }
}

/// A control in the evaluation without text.
struct WithoutText<'a>(&'a mut dyn AttentionControl);

impl AttentionControl for WithoutText<'_> {
    fn intervention(&self, site: &Site) -> Intervention {
        self.0.unconditional_intervention(site)
    }

    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor> {
        self.0.rewrite(site, maps)
    }

    fn attend(&mut self, site: &Site, qkv: [&Tensor; 3], attend: Attend) -> Result<Tensor> {
        self.0.attend(site, qkv, attend)
    }
}

/// `without + (w + 1) (with_text - without)` for noise (rows, 4, h, w) and the
/// strength w of each row; w = 0 returns `with_text`.
pub fn classifier_free(with_text: &Tensor, without: &Tensor, guidance: &[f64]) -> Result<Tensor> {
    let scales: Vec<_> = guidance.iter().map(|w| (w + 1.0) as f32).collect();
    let scales = Tensor::from_vec(scales, ((), 1, 1, 1), without.device())?;
    Ok((without + (with_text - without)?.broadcast_mul(&scales)?)?)
}
