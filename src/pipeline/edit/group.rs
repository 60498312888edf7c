//! The rows of an edit that are walked together, and what their walk results in.

use std::ops::Range;

use candle_core::Tensor;

use super::{Edit, Edited, controls::EditControls};
use crate::{
    control::{AttentionStore, join_rows},
    diffusion::{BatchConditioning, Inverted, Unconditional},
    error::{Error, Result},
    guidance::Guidance,
    model::{Conditioning, Model},
    pipeline::{
        Method,
        hint::{Hint, Shown, hint},
        negative,
    },
    prompt::Prompt,
};

/// Some of the targets of an edit, and the source if it is needed.
pub(super) struct Group<'a> {
    pub(super) edit: &'a Edit,
    /// The source prompt and those of all targets.
    pub(super) prompts: &'a [Prompt],
    /// Of all prompts, and of the early one.
    pub(super) states: &'a Conditioning,
    pub(super) controls: EditControls,
    /// The prompts of the sources: 0, or none.
    pub(super) rows: Range<usize>,
    /// The targets, counted from 0.
    pub(super) targets: Range<usize>,
}

impl Group<'_> {
    /// The conditioning of its rows. The early prompt's states are those after the targets'; the
    /// pooled embedding stays each row's own. A consistency model leaves the source unguided.
    pub(super) fn conditioning(&self) -> Result<BatchConditioning> {
        let targets = self.targets.clone().map(|target| target + 1);
        let prompts: Vec<_> = self.rows.clone().chain(targets).collect();
        let of = |prompt| match prompt {
            0 if self.edit.method == Method::Icd => Guidance::NONE,
            _ => self.edit.guidance,
        };
        let early_row = self.edit.targets.len() + 1;
        let pick = |prompt: &usize| if *prompt == 0 { 0 } else { early_row };
        let text = self.states.rows(prompts.iter().copied())?;
        let early = match self.edit.early_prompt {
            Some(_) => Some(self.states.rows(prompts.iter().map(pick))?.pooled_as(&text)),
            None => None,
        };
        Ok(BatchConditioning {
            text,
            early,
            guidance: prompts.into_iter().map(of).collect(),
        })
    }
}

impl Group<'_> {
    /// What to try next for each target, given the latents of all rows.
    pub(super) fn hints(&self, latents: &Tensor) -> Result<Vec<Option<Hint>>> {
        let sources = self.rows.len();
        let one = |(index, target): (usize, usize)| {
            let shown = Shown {
                maps: &self.controls.onlooker.0,
                latents,
                row: sources + index,
            };
            let prompts = (&self.prompts[0], &self.prompts[target + 1]);
            match sources {
                0 => Ok(None), // no maps are read without the source
                _ => hint(self.edit, prompts, &shown),
            }
        };
        self.targets.clone().enumerate().map(one).collect()
    }

    /// What classifier-free guidance leads all rows away from; the states of the negative prompt
    /// are the last.
    pub(super) fn unconditional(
        &self,
        model: &Model,
        inverted: &Inverted,
    ) -> Result<Option<Unconditional>> {
        let last = self.states.hidden_states.dim(0)? - 1;
        let row = |row| self.states.rows([row].into_iter());
        let prompt = self.edit.negative_prompt.as_deref();
        Ok(Some(match &self.edit.method {
            Method::Icd => return Ok(None),
            Method::Ddim(_) => Unconditional::Fixed(negative(model, prompt, row(last)?)?),
            Method::Npi(_) => Unconditional::Fixed(row(0)?),
            Method::Nti(_, null_text) => Unconditional::PerStep {
                embeddings: inverted.null_embeddings.clone(),
                pooled: negative(model, Some(&null_text.begin), row(last)?)?.pooled,
            },
        }))
    }
}

/// What the walk of a group results in, a row for the source, if it is needed, and for each
/// target.
pub(super) struct Walked {
    pub(super) latents: Tensor,
    pub(super) blend_mask: Option<Tensor>,
    pub(super) attention: Option<AttentionStore>,
    pub(super) hints: Vec<Option<Hint>>,
}

/// The result of all groups.
pub(super) fn joined(groups: Vec<Walked>, sources: usize, prompts: Vec<Prompt>) -> Result<Edited> {
    let joined = |parts: Vec<Tensor>| match parts.is_empty() {
        true => Ok(None),
        false => join_rows(&parts, sources).map(Some),
    };
    let (mut latents, mut masks, mut stores) = (Vec::new(), Vec::new(), Vec::new());
    let mut hints = Vec::new();
    for group in groups {
        hints.extend(group.hints);
        latents.push(group.latents);
        masks.extend(group.blend_mask);
        stores.extend(group.attention);
    }
    let none = || Error::setting("an edit needs a target prompt");
    let latents = joined(latents)?.ok_or_else(none)?;
    let targets = |rows: &Tensor| rows.narrow(0, sources, rows.dim(0)? - sources);
    Ok(Edited {
        source: (sources == 1)
            .then(|| latents.narrow(0, 0, 1))
            .transpose()?,
        targets: targets(&latents)?,
        blend_mask: joined(masks)?.as_ref().map(targets).transpose()?,
        prompts,
        hints,
        attention: AttentionStore::joined(&stores, sources)?,
    })
}
