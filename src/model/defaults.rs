//! What a model does where nothing else is asked for: its guidance, tau and timesteps.

use std::{fmt, str::FromStr};

use super::{MethodName, Model, once};
use crate::{
    error::{Error, Result, Setting},
    guidance::Tau,
    lora,
    schedule::Timesteps,
};

/// The default guidance of generations, suited to the released models.
const GENERATION_GUIDANCE: f64 = 7.0;

/// The local blend of edits where none is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultBlend {
    /// The whole picture may change.
    #[default]
    None,
    /// What the edit changes most.
    Difference,
}

impl fmt::Display for DefaultBlend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Difference => "difference",
        })
    }
}

impl FromStr for DefaultBlend {
    type Err = Error;

    /// Parses a model's `blend`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "difference" => Ok(Self::Difference),
            _ => Err(Error::setting(format!(
                "{text:?}: a model's default is none or difference"
            ))),
        }
    }
}

impl Model {
    /// The default guidance of edits: from the model's `icd.toml`, else the family's.
    pub fn edit_guidance(&self) -> f64 {
        let (stated, _) = self.stated_guidance(MethodName::Icd);
        stated.unwrap_or(self.family().edit_guidance())
    }

    /// The default tau of edits: from the model's `icd.toml`, else the one that fits
    /// its reverse timesteps.
    pub fn edit_tau(&self) -> Result<Tau> {
        match self.stated_guidance(MethodName::Icd).1 {
            Some(tau) => Ok(tau),
            None => Ok(Tau::usual_for(&self.reverse_timesteps()?)),
        }
    }

    /// The guidance and the tau that the model's `icd.toml` states for edits by this method:
    /// what it states is for its own default method.
    pub fn stated_guidance(&self, method: MethodName) -> (Option<f64>, Option<Tau>) {
        match self.parts.method.0 == method {
            true => (self.parts.guidance, self.parts.tau),
            false => (None, None),
        }
    }

    /// The local blend that the model's `icd.toml` states for edits by this method: as guidance,
    /// for its own default method.
    pub fn stated_blend(&self, method: MethodName) -> DefaultBlend {
        match self.parts.method.0 == method {
            true => self.parts.blend,
            false => DefaultBlend::None,
        }
    }

    /// The default guidance of generations.
    pub fn generation_guidance(&self) -> f64 {
        let (stated, _) = self.stated_guidance(MethodName::Icd);
        stated.unwrap_or(GENERATION_GUIDANCE)
    }

    /// The timesteps of an inversion, in ascending order.
    pub fn forward_timesteps(&self) -> Result<Timesteps> {
        let read = || {
            let timesteps = self.parts.forward.timesteps(lora::forward_timesteps)?;
            let unknown =
                || self.unknown_timesteps(Setting::ForwardTimesteps, "19,259,519,779,999");
            timesteps.ok_or_else(unknown)?.ascending()
        };
        once(&self.known.forward, read)
    }

    /// The timesteps of an edit or a generation, in descending order.
    pub fn reverse_timesteps(&self) -> Result<Timesteps> {
        let read = || {
            let timesteps = self.parts.reverse.timesteps(lora::reverse_timesteps)?;
            let unknown = || self.unknown_timesteps(Setting::ReverseTimesteps, "999,779,519,259,0");
            timesteps.ok_or_else(unknown)?.descending()
        };
        once(&self.known.reverse, read)
    }

    /// The error of timesteps that nothing states.
    fn unknown_timesteps(&self, setting: Setting, example: &str) -> Error {
        match self.is_plain() {
            true => Error::of(
                Setting::Method,
                "icd needs consistency adapters, and the model names none: name them, or choose \
                 ddim, npi or nti",
            ),
            false => Error::of(
                setting,
                format!(
                    "neither the metadata nor the file name of an adapter states them: set them, \
                     as in {example}"
                ),
            ),
        }
    }
}
