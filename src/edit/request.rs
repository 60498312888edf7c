//! What an edit is to do, and the rows and the control that follow from it.

use std::ops::Range;

use candle_core::Tensor;

use super::{
    Confine, ControlPlan, Looks, Rows, Watch, border::read, plan::Stage, steering::Steering,
};
use crate::{
    error::{Error, Result},
    guidance::Guidance,
    model::{Conditioning, Model},
    prompt::Prompt,
    schedule::Path,
};

/// What an edit is to do.
#[derive(Clone, Debug)]
pub struct Edit {
    /// What the picture shows.
    pub source: String,
    /// What it should show, once per edit.
    pub targets: Vec<String>,
    /// The guidance of the targets.
    pub guidance: Guidance,
    /// The prompt of the targets while their guidance is not yet full; their
    /// own where there is none.
    pub early_prompt: Option<String>,
    /// What holds the edit to the source.
    pub control: ControlPlan,
    /// Where the edit may act, (1, 1, h, w) from 0 to 1 over the latent;
    /// everywhere where there is none.
    pub mask: Option<Tensor>,
    /// What is wanted beside the targets.
    pub extras: Extras,
}

/// What an edit gives beside its targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// The source walked back, even where no control reads it.
    pub source: bool,
    /// Where words look.
    pub looks: bool,
}

/// What is told before a walk begins.
pub(super) struct Staged {
    pub(super) rows: Rows,
    pub(super) steering: Steering,
    /// The source prompt and those of the targets.
    pub(super) prompts: Vec<Prompt>,
}

impl Edit {
    /// The usual edit of what a picture shows into something else.
    pub fn new(source: impl Into<String>, target: impl Into<String>, guidance: Guidance) -> Self {
        Self {
            source: source.into(),
            targets: vec![target.into()],
            guidance,
            early_prompt: None,
            control: ControlPlan::default(),
            mask: None,
            extras: Extras::default(),
        }
    }

    /// Reads the prompts: what each row is told, and who steers the walk.
    pub(super) fn stage(&self, model: &Model, path: &Path, watch: &mut Watch) -> Result<Staged> {
        let prompts: Vec<&str> = self.prompts().chain(self.early_prompt.as_deref()).collect();
        let mut text = read(|| model.styled_text(), &prompts, &["src", "tgt"], watch)?;
        let walk = self.walk(model, path);
        text.prompts.truncate(1 + self.targets.len());
        let steering = self.steering(&text.prompts, &walk)?;
        let first = usize::from(!self.walks_source(&steering));
        Ok(Staged {
            rows: self.rows(&text.states, first..text.prompts.len())?,
            steering,
            prompts: text.prompts,
        })
    }

    fn steering(&self, prompts: &[Prompt], walk: &Stage) -> Result<Steering> {
        Ok(Steering {
            control: self.control.control(prompts, walk)?,
            confine: (self.mask.as_ref())
                .map(|mask| Ok::<_, Error>(Confine::new(mask.to_device(&walk.device)?)))
                .transpose()?,
            looks: (self.extras.looks).then(|| Looks::new(&walk.attentive_levels)),
            first_own_step: walk.early_steps,
            step: 0,
        })
    }

    fn walks_source(&self, steering: &Steering) -> bool {
        self.extras.source || steering.reads_source()
    }

    /// The source prompt and those of the targets, in tokens.
    pub fn read_prompts(&self, model: &Model) -> Result<Vec<Prompt>> {
        let tokenizers = model.tokenizers()?;
        self.prompts()
            .map(|prompt| tokenizers.read(prompt))
            .collect()
    }

    /// How many rows each step of the walk evaluates, by the
    /// [`read_prompts`](Self::read_prompts). Words that they do not have are
    /// refused, before anything is loaded.
    pub fn rows_evaluated(&self, model: &Model, prompts: &[Prompt]) -> Result<usize> {
        let walk = self.walk(model, &model.reverse_path()?);
        let steering = self.steering(prompts, &walk)?;
        Ok(usize::from(self.walks_source(&steering)) + self.targets.len())
    }

    /// The prompts of all rows, the source first.
    pub fn prompts(&self) -> impl Iterator<Item = &str> {
        [&self.source]
            .into_iter()
            .chain(&self.targets)
            .map(String::as_str)
    }

    /// What the control must know of the walk.
    pub fn walk(&self, model: &Model, path: &Path) -> Stage {
        let is_early = |t| self.early_prompt.is_some() && self.guidance.tau().is_early(t);
        Stage {
            steps: path.jumps(),
            early_steps: path
                .segments()
                .filter(|segment| is_early(segment.from))
                .count(),
            attentive_levels: model.unet_config().attentive_levels(),
            device: model.device().clone(),
        }
    }

    /// What the rows of these prompts are told. The early prompt's states are
    /// the last of `states`; the pooled text stays that of each row's own.
    fn rows(&self, states: &Conditioning, prompts: Range<usize>) -> Result<Rows> {
        let guidance = |prompt| {
            if prompt == 0 {
                Guidance::NONE
            } else {
                self.guidance
            }
        };
        let early_row = self.targets.len() + 1;
        let pick = |prompt| if prompt == 0 { 0 } else { early_row };
        let text = states.rows(prompts.clone())?;
        let early = match self.early_prompt {
            Some(_) => Some(states.rows(prompts.clone().map(pick))?.pooled_as(&text)),
            None => None,
        };
        Ok(Rows {
            text,
            early,
            guidance: prompts.map(guidance).collect(),
        })
    }
}
