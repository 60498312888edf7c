//! How pictures are carried into noise and back.

use std::path::Path;

use clap::Args;
use icd::{
    Error,
    error::Setting,
    guidance::{Guidance, Tau},
    model::{MethodName, Model},
    pipeline::{Latents, Method, NullText},
    schedule::DdimSteps,
};

use crate::cli::Console;

/// How pictures are carried into noise and back.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Method")]
pub(crate) struct MethodArgs {
    /// How the picture is carried into noise and back; all but icd need no adapters: any Stable
    /// Diffusion model, both rows of classifier-free guidance at a guidance input of 0 if it has
    /// one [default: that of --latents, else as the model's icd.toml says, else icd].
    #[arg(long)]
    method: Option<MethodName>,
    /// DDIM steps in each direction, for all methods but icd [default: those of --latents, else
    /// as the model's icd.toml says, else 50].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<DdimSteps>,
    /// What guidance leads away from, for ddim; where the embeddings of nti begin [default: the
    /// empty prompt].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    negative_prompt: Option<String>,
}

/// The flags of guidance, as far as they were given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GivenGuidance {
    pub(crate) strength: Option<f64>,
    pub(crate) tau: Option<Tau>,
}

/// A method, the guidance under it, and what that leads away from.
pub(crate) struct Chosen {
    pub(crate) method: Method,
    pub(crate) guidance: Guidance,
    pub(crate) negative_prompt: Option<String>,
}

impl MethodArgs {
    /// The method that was asked for, if one was.
    pub(crate) fn asked(&self) -> Option<MethodName> {
        self.method
    }

    /// The method: as given, else that of the latents, else the model's.
    pub(crate) fn chosen(
        &self,
        model: &Model,
        given: GivenGuidance,
        latents: Option<&Latents>,
    ) -> icd::Result<Chosen> {
        let stated = latents.map(|latents| &latents.method);
        let (name, steps) = self.name(model, stated)?;
        let null_text = stated.and_then(Method::null_text);
        let null_text = null_text.filter(|_| name == MethodName::Nti);
        let guidance = guidance(model, name, (given, null_text))?;
        let negative_prompt = self.negative_prompt.clone();
        let begin = || negative_prompt.clone().unwrap_or_default();
        let method = match name {
            MethodName::Icd => Method::Icd,
            MethodName::Ddim => Method::Ddim(steps),
            MethodName::Npi => Method::Npi(steps),
            MethodName::Nti => {
                let begin = begin();
                let own = NullText { guidance, begin };
                Method::Nti(steps, null_text.cloned().unwrap_or(own))
            }
        };
        Ok(Chosen {
            method,
            guidance,
            negative_prompt,
        })
    }

    fn name(&self, model: &Model, stated: Option<&Method>) -> icd::Result<(MethodName, DdimSteps)> {
        let (usual, steps) = model.method();
        let name = self.method.or(stated.map(Method::kind)).unwrap_or(usual);
        if name == MethodName::Icd && self.steps.is_some() {
            let reason = "the steps of the method icd are its adapters': it is for ddim, npi and \
                          nti (see --method)";
            return Err(Error::of(Setting::Steps, reason));
        }
        let stated = stated.and_then(Method::steps);
        Ok((name, self.steps.or(stated).unwrap_or(steps)))
    }

    /// Fails if latents do not serve an edit by this method, and warns if embeddings were
    /// optimised for something else.
    pub(crate) fn check_latents(
        &self,
        (file, latents): (&Path, &Latents),
        chosen: (&Method, Guidance),
        console: &Console,
    ) -> icd::Result<()> {
        let (method, guidance) = chosen;
        latents.check_method(file, method)?;
        let (Method::Nti(..), Some(null_text)) = (method, latents.method.null_text()) else {
            return Ok(());
        };
        if null_text.guidance != guidance {
            let (own, tau) = (null_text.guidance.strength(), null_text.guidance.tau());
            console.warn(&format!(
                "--guidance: the embeddings of the latents were optimised for {own}, --tau {tau}"
            ));
        }
        match &self.negative_prompt {
            Some(given) if *given != null_text.begin => Err(Error::of(
                Setting::NegativePrompt,
                format!(
                    "{given:?}: the embeddings of the latents began as {:?}: invert the picture \
                     again, or leave it out",
                    null_text.begin
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// The guidance under a method: as given, else what embeddings were optimised for, else as the
/// model's icd.toml says for its own method, else the usual one of the method.
fn guidance(
    model: &Model,
    name: MethodName,
    (given, null_text): (GivenGuidance, Option<&NullText>),
) -> icd::Result<Guidance> {
    if name == MethodName::Icd {
        let tau = given.tau.map_or_else(|| model.edit_tau(), Ok)?;
        return Guidance::new(given.strength.unwrap_or(model.edit_guidance()), tau);
    }
    let optimised = null_text.map(|null_text| null_text.guidance);
    let (scale, tau) = model.stated_guidance(name);
    let scale = optimised.map(|own| own.strength()).or(scale);
    let tau = optimised.map(|own| own.tau()).or(tau);
    Guidance::classifier_free(
        given.strength.or(scale).unwrap_or(Guidance::USUAL_SCALE),
        given.tau.or(tau).unwrap_or(Tau::CONSTANT),
    )
}
