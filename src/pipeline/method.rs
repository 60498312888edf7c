//! The methods that carry a picture into noise and back.

use crate::{
    diffusion::{Solver, null_text_evaluations},
    error::Result,
    guidance::{Guidance, Tau},
    model::{MethodName, Model},
    schedule::{DdimSteps, Timesteps},
};

/// How a picture is carried into noise and back.
///
/// All but the first need no adapters: any Stable Diffusion model will do. They follow DDIM in
/// both directions as [`Solver::Ddim`] says, inverting under the source prompt without guidance,
/// and denoise with classifier-free guidance, the source like the targets. A network that takes
/// the guidance strength as an input is evaluated at 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Method {
    /// By consistency models (arXiv 2406.14539): the forward one, and the reverse one back.
    #[default]
    Icd,
    /// DDIM inversion (arXiv 2010.02502).
    Ddim(DdimSteps),
    /// Negative-prompt inversion (arXiv 2305.16807): guidance leads all rows away from the
    /// source prompt, so that the source itself is denoised as it was inverted.
    Npi(DdimSteps),
    /// Null-text inversion (arXiv 2211.09794): guidance leads away from embeddings that were
    /// optimised for each step to bring the guided source back to the picture.
    Nti(DdimSteps, NullText),
}

/// What embeddings of null-text inversion are optimised for.
#[derive(Clone, Debug, PartialEq)]
pub struct NullText {
    /// The guidance under which they bring the source back.
    pub guidance: Guidance,
    /// The prompt that the first of them begins as.
    pub begin: String,
}

impl Default for NullText {
    /// The published scale of 7.5, from the empty prompt.
    fn default() -> Self {
        let usual = Guidance::classifier_free(Guidance::USUAL_SCALE, Tau::CONSTANT);
        Self {
            guidance: usual.expect("a scale above 0"),
            begin: String::new(),
        }
    }
}

impl Method {
    /// Its name in files.
    pub fn name(&self) -> &'static str {
        self.kind().as_str()
    }

    /// Which it is.
    pub fn kind(&self) -> MethodName {
        match self {
            Self::Icd => MethodName::Icd,
            Self::Ddim(_) => MethodName::Ddim,
            Self::Npi(_) => MethodName::Npi,
            Self::Nti(..) => MethodName::Nti,
        }
    }

    /// Its DDIM steps; a consistency model's are its own.
    pub fn steps(&self) -> Option<DdimSteps> {
        match self {
            Self::Icd => None,
            Self::Ddim(steps) | Self::Npi(steps) | Self::Nti(steps, _) => Some(*steps),
        }
    }

    /// What its embeddings were optimised for.
    pub fn null_text(&self) -> Option<&NullText> {
        match self {
            Self::Nti(_, null_text) => Some(null_text),
            Self::Icd | Self::Ddim(_) | Self::Npi(_) => None,
        }
    }

    /// What it is called in messages: "ddim in 50 steps".
    pub fn told(&self) -> String {
        match self.steps() {
            Some(steps) => format!("{} in {steps} steps", self.name()),
            None => self.name().into(),
        }
    }

    /// Whether pictures that it inverted can be edited by `other`: the inversions of DDIM and
    /// of negative-prompt inversion are one, and null-text inversion adds its embeddings to it.
    pub fn serves(&self, other: &Self) -> bool {
        match other {
            Self::Icd => *self == Self::Icd,
            Self::Ddim(steps) | Self::Npi(steps) => self.steps() == Some(*steps),
            Self::Nti(steps, _) => self.kind() == MethodName::Nti && self.steps() == Some(*steps),
        }
    }

    /// How its steps are computed.
    pub fn solver(&self) -> Solver {
        match self {
            Self::Icd => Solver::Consistency,
            Self::Ddim(_) | Self::Npi(_) | Self::Nti(..) => Solver::Ddim,
        }
    }

    /// The timesteps of an inversion, in ascending order.
    pub fn forward_timesteps(&self, model: &Model) -> Result<Timesteps> {
        match self.steps() {
            Some(steps) => Ok(steps.forward()),
            None => model.forward_timesteps(),
        }
    }

    /// The timesteps of an edit or a generation, in descending order.
    pub fn reverse_timesteps(&self, model: &Model) -> Result<Timesteps> {
        match self.steps() {
            Some(steps) => Ok(steps.reverse()),
            None => model.reverse_timesteps(),
        }
    }

    /// Its guidance of this strength, or scale if it is classifier-free.
    pub fn guidance(&self, strength: f64, tau: Tau) -> Result<Guidance> {
        match self {
            Self::Icd => Guidance::new(strength, tau),
            Self::Ddim(_) | Self::Npi(_) | Self::Nti(..) => {
                Guidance::classifier_free(strength, tau)
            }
        }
    }

    /// The rows of each evaluation of an inversion; of null-text inversion the most there may
    /// be: it ends early in steps that are good enough.
    pub fn inversion_evaluations(&self, model: &Model) -> Result<Vec<usize>> {
        let walked = self.forward_timesteps(model)?.count();
        let optimised = match self {
            Self::Nti(steps, null_text) => null_text_evaluations(*steps, null_text.guidance),
            Self::Icd | Self::Ddim(_) | Self::Npi(_) => 0,
        };
        Ok(vec![1; walked + optimised])
    }

    /// The evaluations of an edit or a generation of this guidance.
    pub fn evaluations(&self, model: &Model, guidance: Guidance) -> Result<usize> {
        let timesteps = self.reverse_timesteps(model)?;
        Ok(match self {
            Self::Icd => timesteps.count(),
            Self::Ddim(_) | Self::Npi(_) | Self::Nti(..) => {
                let jumps = timesteps.jumps();
                let of = |t| crate::diffusion::evaluations(&[guidance], t);
                jumps.map(|jump| of(jump.from)).sum()
            }
        })
    }

    /// The first step after which local blend acts: with DDIM a fifth of them is over, as in
    /// the authors' code (`start_blend`).
    pub(super) fn blend_from(&self) -> usize {
        self.steps().map_or(0, |steps| steps.count() / 5)
    }

    /// What tells its inversions apart, beside the model's timesteps; nothing for the first.
    pub fn inversion_key(&self) -> Option<String> {
        match self {
            Self::Icd => None,
            Self::Ddim(steps) | Self::Npi(steps) => Some(format!("ddim {steps}")),
            Self::Nti(steps, NullText { guidance, begin }) => {
                let (scale, tau) = (guidance.strength(), guidance.tau());
                Some(format!("nti {steps} {scale} {tau} {begin}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(count: usize) -> DdimSteps {
        DdimSteps::new(count).unwrap()
    }

    #[test]
    fn inversions_serve_methods_that_go_the_same_way() {
        let nti = |count| Method::Nti(steps(count), NullText::default());
        let (ddim, npi) = (Method::Ddim(steps(50)), Method::Npi(steps(50)));
        for (inverted, edited) in [
            (&ddim, &npi),
            (&npi, &ddim),
            (&nti(50), &ddim),
            (&nti(50), &nti(50)),
            (&Method::Icd, &Method::Icd),
        ] {
            assert!(inverted.serves(edited), "{inverted:?} {edited:?}");
        }
        for (inverted, edited) in [
            (&ddim, &nti(50)),
            (&ddim, &Method::Icd),
            (&Method::Icd, &ddim),
            (&Method::Ddim(steps(20)), &ddim),
            (&nti(20), &nti(50)),
        ] {
            assert!(!inverted.serves(edited), "{inverted:?} {edited:?}");
        }
    }
}
