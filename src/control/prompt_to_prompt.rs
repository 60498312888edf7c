//! Prompt-to-prompt (arXiv 2208.01626): the target uses the source's attention maps
//! in some of the steps.

use std::ops::Range;

use candle_core::Tensor;

use crate::{
    diffusion::{StepInfo, WalkControl},
    error::Result,
    model::attention::{AttentionControl, AttentionKind, Intervention, Site},
};

/// How a target's cross-attention maps follow the source's.
#[derive(Clone, Debug)]
pub enum CrossEdit {
    /// They remain the target's own.
    Own,
    /// `source[.., map] * keep + target * (1 - keep)`.
    Refine {
        /// The source token of each target token (tokens), u32.
        map: Tensor,
        /// 1 for tokens that have one, else 0 (tokens).
        keep: Tensor,
    },
    /// `source @ matrix` (tokens, tokens).
    Replace(Tensor),
}

/// The edit of the maps of one target.
#[derive(Clone, Debug)]
pub struct Target {
    /// How its cross-attention maps follow the source's.
    pub edit: CrossEdit,
    /// The factor of each of its tokens (tokens).
    pub equalizer: Tensor,
    /// Per step, 1 for the tokens whose maps are edited, else 0 (tokens);
    /// `None` for steps without an edit.
    pub reach: Vec<Option<Tensor>>,
}

/// The attention control of an edit: row 0 is the source, the others are its targets.
#[derive(Clone, Debug)]
pub struct PromptToPrompt {
    /// In the order of the rows.
    targets: Vec<Target>,
    self_steps: Range<usize>,
    /// The current step.
    step: StepInfo,
}

impl PromptToPrompt {
    /// Creates a control whose targets use the source's self-attention maps in
    /// `self_steps`.
    pub fn new(targets: Vec<Target>, self_steps: Range<usize>) -> Self {
        Self {
            targets,
            self_steps,
            step: StepInfo::default(),
        }
    }

    /// The control of some of the targets, which are counted from 0.
    pub(super) fn of_targets(&self, targets: &Range<usize>) -> Self {
        let own = self.targets[targets.clone()].to_vec();
        Self::new(own, self.self_steps.clone())
    }
}

impl Target {
    fn reach(&self, step: StepInfo) -> Option<&Tensor> {
        self.reach.get(step.index)?.as_ref()
    }

    /// Edits maps (1, heads, queries, tokens) where `reach` is 1.
    fn rewrite(&self, source: &Tensor, own: &Tensor, reach: &Tensor) -> Result<Tensor> {
        let like = |x: &Tensor| x.to_dtype(own.dtype());
        let edited = match &self.edit {
            CrossEdit::Own => own.clone(),
            CrossEdit::Refine { map, keep } => {
                let from_source = source.index_select(map, 3)?;
                mix(&from_source, own, &like(keep)?)?
            }
            CrossEdit::Replace(matrix) => source.broadcast_matmul(&like(matrix)?)?,
        };
        let edited = edited.broadcast_mul(&like(&self.equalizer)?)?;
        mix(&edited, own, &like(reach)?)
    }
}

/// `a * weight + b * (1 - weight)`, with a weight per token.
fn mix(a: &Tensor, b: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok((a.broadcast_mul(weight)? + b.broadcast_mul(&(1.0 - weight)?)?)?)
}

impl AttentionControl for PromptToPrompt {
    fn intervention(&self, site: &Site) -> Intervention {
        // Up to 32x32 queries for a latent of 64x64, in proportion to its area.
        let (height, width) = self.step.latent;
        let is_small = site.height * site.width <= height * width / 4;
        let replaces_self = is_small && self.self_steps.contains(&self.step.index);
        let mut targets = self.targets.iter();
        let edits_cross = !self.step.early && targets.any(|t| t.reach(self.step).is_some());
        match site.kind {
            AttentionKind::SelfAttention if replaces_self => Intervention::FirstRowsMaps,
            AttentionKind::CrossAttention if edits_cross => Intervention::Maps,
            _ => Intervention::None,
        }
    }

    fn rewrite(&mut self, _: &Site, maps: Tensor) -> Result<Tensor> {
        let source = maps.narrow(0, 0, 1)?.contiguous()?;
        let mut rows = vec![source.clone()];
        for (i, target) in self.targets.iter().enumerate() {
            let own = maps.narrow(0, i + 1, 1)?.contiguous()?;
            rows.push(match target.reach(self.step) {
                Some(reach) => target.rewrite(&source, &own, reach)?,
                None => own,
            });
        }
        Ok(Tensor::cat(&rows, 0)?)
    }
}

impl WalkControl for PromptToPrompt {
    fn begin(&mut self, step: StepInfo) {
        self.step = step;
    }

    fn reads_source(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::schedule::Timestep;

    fn target(edit: CrossEdit, equalizer: [f32; 3], reach: Option<[f32; 3]>) -> Target {
        let tensor = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
        Target {
            edit,
            equalizer: tensor(equalizer),
            reach: vec![reach.map(tensor)],
        }
    }

    /// Two rows, one head, one query, three tokens.
    fn rewritten(target: Target) -> Vec<f32> {
        let maps =
            Tensor::new(&[[[[0.5f32, 0.3, 0.2]]], [[[0.1, 0.2, 0.7]]]], &Device::Cpu).unwrap();
        let site = Site {
            index: 0,
            place: crate::model::attention::BlockPlace::Up,
            kind: AttentionKind::CrossAttention,
            level: 2,
            height: 1,
            width: 1,
        };
        let mut control = PromptToPrompt::new(vec![target], 0..0);
        let maps = control.rewrite(&site, maps).unwrap();
        let rows: Vec<Vec<f32>> = maps.flatten_from(1).unwrap().to_vec2().unwrap();
        assert_eq!(rows[0], [0.5, 0.3, 0.2], "the source is never changed");
        rows[1].clone()
    }

    fn close(a: &[f32], b: [f32; 3]) {
        assert!(
            a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6),
            "{a:?} is not {b:?}"
        );
    }

    #[test]
    fn refine_takes_the_source_where_a_token_has_one() {
        let map = Tensor::new(&[0u32, 2, 1], &Device::Cpu).unwrap();
        let keep = Tensor::new(&[1f32, 0., 1.], &Device::Cpu).unwrap();
        let refine = || CrossEdit::Refine {
            map: map.clone(),
            keep: keep.clone(),
        };
        close(
            &rewritten(target(refine(), [1.; 3], Some([1.; 3]))),
            [0.5, 0.2, 0.3],
        );
        close(
            &rewritten(target(refine(), [1., 4., 1.], Some([1.; 3]))),
            [0.5, 0.8, 0.3],
        );
        close(
            &rewritten(target(refine(), [1., 4., 1.], Some([1., 0., 0.]))),
            [0.5, 0.2, 0.7],
        );
        close(&rewritten(target(refine(), [9.; 3], None)), [0.1, 0.2, 0.7]);
    }

    #[test]
    fn replace_spreads_the_source() {
        let matrix = Tensor::new(
            &[[0f32, 0.5, 0.5], [1., 0., 0.], [0., 0., 0.]],
            &Device::Cpu,
        )
        .unwrap();
        let replaced = rewritten(target(CrossEdit::Replace(matrix), [1.; 3], Some([1.; 3])));
        close(&replaced, [0.3, 0.25, 0.25]);
    }

    #[test]
    fn the_equalizer_alone_multiplies_the_target() {
        close(
            &rewritten(target(CrossEdit::Own, [1., 1., 3.], Some([1.; 3]))),
            [0.1, 0.2, 2.1],
        );
    }

    #[test]
    fn there_is_no_intervention_outside_of_the_steps_and_sizes() {
        let mut control =
            PromptToPrompt::new(vec![target(CrossEdit::Own, [1.; 3], Some([1.; 3]))], 0..1);
        let site = |kind, side| Site {
            index: 0,
            place: crate::model::attention::BlockPlace::Down,
            kind,
            level: 1,
            height: side,
            width: side,
        };
        let step = |index| StepInfo {
            index,
            timestep: Timestep(999),
            early: false,
            unevenly_guided: false,
            latent: (8, 8),
        };
        control.begin(step(0));
        assert_eq!(
            control.intervention(&site(AttentionKind::SelfAttention, 4)),
            Intervention::FirstRowsMaps
        );
        assert_eq!(
            control.intervention(&site(AttentionKind::SelfAttention, 8)),
            Intervention::None
        );
        assert_eq!(
            control.intervention(&site(AttentionKind::CrossAttention, 8)),
            Intervention::Maps
        );
        control.begin(step(1));
        assert_eq!(
            control.intervention(&site(AttentionKind::SelfAttention, 4)),
            Intervention::None
        );
        assert_eq!(
            control.intervention(&site(AttentionKind::CrossAttention, 8)),
            Intervention::None
        );
    }
}
