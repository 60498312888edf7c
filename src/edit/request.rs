//! What an edit is to do, and the rows and the control that follow from it.

use std::ops::Range;

use super::{ControlPlan, Rows, Steer, Watch, border::read, plan::Stage};
use crate::{
    error::Result,
    guidance::Guidance,
    model::{Conditioning, Model, attention::Untouched},
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
    /// Whether the source row is wanted even where no control reads it.
    pub keep_source: bool,
}

impl Edit {
    /// Reads the prompts: what each row is told, and who steers the walk.
    pub(super) fn stage(
        &self,
        model: &Model,
        path: &Path,
        watch: &mut Watch,
    ) -> Result<(Rows, Box<dyn Steer>)> {
        let prompts: Vec<&str> = self.prompts().chain(self.early_prompt.as_deref()).collect();
        let text = read(model, &prompts, &["src", "tgt"], watch)?;
        let own = 1 + self.targets.len();
        let control = self
            .control
            .control(&text.prompts[..own], &self.walk(model, path))?;
        let first = match self.keep_source || control.is_some() {
            true => 0,
            false => 1,
        };
        let rows = self.rows(&text.states, first..own)?;
        let steer: Box<dyn Steer> = match control {
            Some(control) => Box::new(control),
            None => Box::new(Untouched),
        };
        Ok((rows, steer))
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
