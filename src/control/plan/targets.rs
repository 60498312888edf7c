//! What prompt-to-prompt is told of each target.

use candle_core::{Device, Tensor};

use super::{ControlMode, ControlPlan, WalkInfo};
use crate::{
    control::{
        PromptToPrompt,
        prompt_to_prompt::{CrossEdit, Target},
    },
    error::Result,
    prompt::{Prompt, Refine, Replace},
};

impl ControlPlan {
    /// The edits of attention maps for all targets.
    pub(super) fn prompt_to_prompt(
        &self,
        source: &Prompt,
        targets: &[Prompt],
        walk: &WalkInfo,
    ) -> Result<PromptToPrompt> {
        let targets = targets
            .iter()
            .map(|target| self.target(source, target, walk));
        let self_steps = match self.mode.follows_maps() {
            true => self.self_replace.of(walk.steps),
            false => 0..0,
        };
        Ok(PromptToPrompt::new(
            targets.collect::<Result<_>>()?,
            self_steps,
        ))
    }

    fn target(&self, source: &Prompt, target: &Prompt, walk: &WalkInfo) -> Result<Target> {
        Ok(Target {
            edit: self.cross_edit(source, target, &walk.device)?,
            equalizer: self.equalizer(source, target, &walk.device)?,
            reach: self.reach(target, walk)?,
        })
    }

    fn cross_edit(&self, source: &Prompt, target: &Prompt, device: &Device) -> Result<CrossEdit> {
        Ok(match self.mode_for(source, target) {
            ControlMode::Auto | ControlMode::Masactrl | ControlMode::None => CrossEdit::Own,
            ControlMode::Refine => {
                let Refine { map, keep } = Refine::new(source, target);
                let map: Vec<u32> = map.into_iter().map(|from| from as u32).collect();
                CrossEdit::Refine {
                    map: Tensor::new(map, device)?,
                    keep: Tensor::new(keep, device)?,
                }
            }
            ControlMode::Replace => {
                let Replace { matrix, shape } = Replace::new(source, target)?;
                CrossEdit::Replace(Tensor::from_vec(matrix, shape, device)?)
            }
        })
    }

    /// The factor of each of the target's tokens.
    fn equalizer(&self, source: &Prompt, target: &Prompt, device: &Device) -> Result<Tensor> {
        let mut factors = vec![1f32; target.context()];
        for (word, factor) in self.amplified(source, target) {
            for token in word.tokens {
                factors[token] = factor as f32;
            }
        }
        Ok(Tensor::new(factors, device)?)
    }

    /// The tokens of the target that are edited in each step. The fractions are of
    /// steps + 1, as in the reference.
    fn reach(&self, target: &Prompt, walk: &WalkInfo) -> Result<Vec<Option<Tensor>>> {
        let steps = walk.steps + 1;
        let mut ranges = vec![self.cross.default.of(steps); target.context()];
        for (word, range) in &self.cross.words {
            for token in target.find(word).unwrap_or_default() {
                ranges[token] = range.of(steps);
            }
        }
        let at = |step: usize| -> Result<Option<Tensor>> {
            let edited = ranges.iter().map(|range| range.contains(&step));
            let tokens: Vec<_> = edited.map(|edited| f32::from(u8::from(edited))).collect();
            Ok(match tokens.contains(&1.0) {
                true => Some(Tensor::new(tokens, &walk.device)?),
                false => None,
            })
        };
        (0..walk.steps).map(at).collect()
    }
}
