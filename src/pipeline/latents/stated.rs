//! What metadata state of the method of an inversion.

use super::NULL_EMBEDDING;
use crate::{
    diffusion::NullEmbeddings,
    error::Error,
    guidance::{Guidance, Tau},
    io::Metadata,
    model::MethodName,
    pipeline::{Method, NullText},
    schedule::DdimSteps,
};

/// Metadata keys: the inversion method, its steps, and what embeddings were optimised for.
pub(super) const METHOD: &str = "method";
const STEPS: &str = "steps";
const GUIDANCE: &str = "guidance";
const TAU: &str = "tau";
const NEGATIVE_PROMPT: &str = "negative_prompt";

/// What the metadata state of a method beside its name.
pub(super) fn stated(method: &Method) -> Vec<(String, String)> {
    let steps = method.steps().map(|steps| (STEPS, steps.to_string()));
    let optimised = method.null_text().map(|NullText { guidance, begin }| {
        [
            (GUIDANCE, guidance.strength().to_string()),
            (TAU, guidance.tau().to_string()),
            (NEGATIVE_PROMPT, begin.clone()),
        ]
    });
    let all = steps.into_iter().chain(optimised.into_iter().flatten());
    all.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The method that metadata state, which is removed from them. Older files do not state it:
/// there was one.
pub(super) fn method(notes: &mut Metadata) -> Result<Method, String> {
    let Some(name) = notes.remove(METHOD) else {
        return Ok(Method::default());
    };
    let unknown = || format!("its method {name:?} is not known");
    let kind = MethodName::named(&name).ok_or_else(unknown)?;
    if kind == MethodName::Icd {
        return Ok(Method::Icd);
    }
    let mut take = |key: &str| {
        let missing = || format!("its metadata lack {key:?} of the method {name}");
        notes.remove(key).ok_or_else(missing)
    };
    let told = |key: &'static str| move |error: Error| format!("its {key}: {error}");
    let steps: DdimSteps = take(STEPS)?.parse().map_err(told(STEPS))?;
    Ok(match kind {
        MethodName::Icd => Method::Icd,
        MethodName::Ddim => Method::Ddim(steps),
        MethodName::Npi => Method::Npi(steps),
        MethodName::Nti => {
            let tau: Tau = take(TAU)?.parse().map_err(told(TAU))?;
            let scale = take(GUIDANCE)?;
            let scale = scale
                .parse()
                .map_err(|_| format!("its guidance {scale:?} is no number"))?;
            let guidance = Guidance::classifier_free(scale, tau).map_err(told(GUIDANCE))?;
            let begin = take(NEGATIVE_PROMPT)?;
            Method::Nti(steps, NullText { guidance, begin })
        }
    })
}

/// Refuses null-text inversions without an embedding for each of their steps.
pub(super) fn check_embeddings(method: &Method, embeddings: &NullEmbeddings) -> Result<(), String> {
    let Method::Nti(steps, _) = method else {
        return Ok(());
    };
    let timesteps = steps.reverse();
    let mut jumps = timesteps.jumps();
    match jumps.find(|jump| embeddings.at(jump.from).is_none()) {
        Some(jump) => Err(format!(
            "it holds no tensor `{NULL_EMBEDDING}{}`",
            jump.from
        )),
        None => Ok(()),
    }
}
