//! Prompt-to-prompt (arXiv 2208.01626): the target keeps the source's
//! attention maps for a part of the walk.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::{LocalBlend, Steer};
use crate::{
    error::Result,
    model::attention::{AttentionControl, Kind, Site, Wish},
};

/// Where a target's cross-attention maps come from.
#[derive(Clone, Debug)]
pub enum CrossEdit {
    /// They stay the target's own.
    Own,
    /// `source[.., map] * keep + target * (1 - keep)`.
    Refine {
        /// The source's token for each of the target's (tokens), u32.
        map: Tensor,
        /// 1 for tokens that have one, else 0 (tokens).
        keep: Tensor,
    },
    /// `source @ matrix` (tokens, tokens).
    Replace(Tensor),
}

/// What is done to the maps of one target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where its cross-attention maps come from.
    pub edit: CrossEdit,
    /// What each of its tokens is multiplied with (tokens).
    pub emphasis: Tensor,
    /// Per step, 1 for the tokens whose maps are edited, else 0 (tokens);
    /// `None` for a step that edits none.
    pub reach: Vec<Option<Tensor>>,
}

/// The control of an edit: row 0 is the source, the others are its targets.
#[derive(Clone, Debug)]
pub struct PromptToPrompt {
    /// The targets in the order of their rows.
    targets: Vec<Target>,
    /// The steps in which the targets read through the source's self-attention.
    self_steps: Range<usize>,
    /// The first step in which the targets read their own prompt.
    first_own_step: usize,
    /// Keeps the latent where the chosen words do not look.
    blend: Option<LocalBlend>,
    step: usize,
    queries: usize,
}

impl PromptToPrompt {
    /// A control without blend whose targets read their own prompts throughout.
    pub fn new(targets: Vec<Target>, self_steps: Range<usize>) -> Self {
        Self {
            targets,
            self_steps,
            first_own_step: 0,
            blend: None,
            step: 0,
            queries: 0,
        }
    }

    /// Leaves cross-attention alone while the targets read another prompt.
    pub fn owning_prompts_from(self, first_own_step: usize) -> Self {
        Self {
            first_own_step,
            ..self
        }
    }

    /// Keeps the latent where the chosen words do not look.
    pub fn with_blend(self, blend: Option<LocalBlend>) -> Self {
        Self { blend, ..self }
    }

    fn reads_own_prompt(&self) -> bool {
        self.step >= self.first_own_step
    }

    fn edits_text(&self) -> bool {
        self.targets
            .iter()
            .any(|target| target.reach.get(self.step).is_some_and(Option::is_some))
    }

    fn edited(&self, target: &Target, source: &Tensor, own: Tensor) -> Result<Tensor> {
        match target.reach.get(self.step) {
            Some(Some(reach)) => target.rewrite(source, own, reach),
            _ => Ok(own),
        }
    }
}

impl Target {
    /// Edits maps (1, heads, queries, tokens) where `reach` is 1.
    fn rewrite(&self, source: &Tensor, own: Tensor, reach: &Tensor) -> Result<Tensor> {
        let like = |x: &Tensor| x.to_dtype(own.dtype());
        let edited = match &self.edit {
            CrossEdit::Own => own.clone(),
            CrossEdit::Refine { map, keep } => {
                let from_source = source.index_select(map, 3)?;
                mix(&from_source, &own, &like(keep)?)?
            }
            CrossEdit::Replace(matrix) => source.broadcast_matmul(&like(matrix)?)?,
        };
        mix(
            &edited.broadcast_mul(&like(&self.emphasis)?)?,
            &own,
            &like(reach)?,
        )
    }
}

/// `a * share + b * (1 - share)`, the share given per token.
fn mix(a: &Tensor, b: &Tensor, share: &Tensor) -> Result<Tensor> {
    Ok((a.broadcast_mul(share)? + b.broadcast_mul(&(1.0 - share)?)?)?)
}

impl AttentionControl for PromptToPrompt {
    fn wish(&self, site: &Site) -> Wish {
        let small = site.height * site.width <= self.queries;
        let blends = self.blend.as_ref().is_some_and(|blend| blend.reads(site));
        match site.kind {
            Kind::Itself if small && self.self_steps.contains(&self.step) => Wish::FirstRowsMaps,
            Kind::Text if self.reads_own_prompt() && (self.edits_text() || blends) => Wish::Maps,
            _ => Wish::Untouched,
        }
    }

    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor> {
        let source = maps.narrow(0, 0, 1)?.contiguous()?;
        let mut rows = vec![source.clone()];
        for (i, target) in self.targets.iter().enumerate() {
            rows.push(self.edited(target, &source, maps.narrow(0, i + 1, 1)?.contiguous()?)?);
        }
        let maps = Tensor::cat(&rows, 0)?;
        if let Some(blend) = self.blend.as_mut().filter(|blend| blend.reads(site)) {
            blend.gather(site, &maps)?;
        }
        Ok(maps)
    }
}

impl Steer for PromptToPrompt {
    fn begin(&mut self, step: usize, latent: &Tensor) -> Result<()> {
        let (_, _, height, width) = latent.dims4()?;
        self.step = step;
        // 32x32 queries for a 64x64 latent, and in proportion to its area.
        self.queries = height * width / 4;
        Ok(())
    }

    fn finish(&mut self, latent: Tensor) -> Result<Tensor> {
        match &self.blend {
            Some(blend) => blend.blend(&latent),
            None => Ok(latent),
        }
    }
}

/// A tensor of one value per token.
pub(super) fn per_token(values: Vec<f32>, like: &candle_core::Device) -> Result<Tensor> {
    let count = values.len();
    Ok(Tensor::from_vec(values, count, like)?.to_dtype(DType::F32)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn target(edit: CrossEdit, emphasis: [f32; 3], reach: Option<[f32; 3]>) -> Target {
        let tensor = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
        Target {
            edit,
            emphasis: tensor(emphasis),
            reach: vec![reach.map(tensor)],
        }
    }

    /// Two rows, one head, one query, three tokens.
    fn rewritten(target: Target) -> Vec<f32> {
        let maps =
            Tensor::new(&[[[[0.5f32, 0.3, 0.2]]], [[[0.1, 0.2, 0.7]]]], &Device::Cpu).unwrap();
        let site = Site {
            place: crate::model::attention::Place::Up,
            kind: Kind::Text,
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
    fn emphasis_alone_multiplies_the_target() {
        close(
            &rewritten(target(CrossEdit::Own, [1., 1., 3.], Some([1.; 3]))),
            [0.1, 0.2, 2.1],
        );
    }

    #[test]
    fn nothing_is_wished_for_outside_of_the_steps_and_sizes() {
        let mut control =
            PromptToPrompt::new(vec![target(CrossEdit::Own, [1.; 3], Some([1.; 3]))], 0..1);
        let site = |kind, side| Site {
            place: crate::model::attention::Place::Down,
            kind,
            level: 1,
            height: side,
            width: side,
        };
        let latent = Tensor::zeros((2, 4, 8, 8), DType::F32, &Device::Cpu).unwrap();
        control.begin(0, &latent).unwrap();
        assert_eq!(control.wish(&site(Kind::Itself, 4)), Wish::FirstRowsMaps);
        assert_eq!(control.wish(&site(Kind::Itself, 8)), Wish::Untouched);
        assert_eq!(control.wish(&site(Kind::Text, 8)), Wish::Maps);
        control.begin(1, &latent).unwrap();
        assert_eq!(control.wish(&site(Kind::Itself, 4)), Wish::Untouched);
        assert_eq!(control.wish(&site(Kind::Text, 8)), Wish::Untouched);
    }
}
