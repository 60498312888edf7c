//! Controls of an edit: prompt-to-prompt, mutual self-attention, local blend, a mask, the
//! anchored source, and the attention store.

mod anchor;
mod attention_store;
mod chain;
mod latent_mask;
mod local_blend;
mod masked_self_attention;
mod mutual_self_attention;
mod plan;
mod prompt_to_prompt;
mod steps;
mod word_pair;

use candle_core::Tensor;

pub use anchor::{Anchor, SourceAnchor};
pub use attention_store::{AttentionStore, Onlooker};
pub use chain::Chain;
pub use latent_mask::LatentMask;
pub use local_blend::{BlendThreshold, BlendWords, LocalBlend};
pub use masked_self_attention::{MaskWords, MaskedSelfAttention};
pub use mutual_self_attention::{MasactrlStart, MutualSelfAttention};
pub use plan::{Amplify, Blend, ControlMode, ControlPlan, Controls, WalkInfo};
pub use prompt_to_prompt::PromptToPrompt;
pub use steps::{CrossReplaceSteps, StepRange};
pub use word_pair::WordPair;

use crate::{
    error::Result,
    model::attention::{AttentionKind, BlockPlace, Intervention, Site},
};

/// The cross-attention layers whose maps locate words: those of the down and up blocks
/// at the level with attention whose side is closest to a quarter of the latent's (the
/// finer level if two are equally close).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WordSites {
    level: usize,
}

impl WordSites {
    /// For a network with attention at these levels (number of times the side is halved).
    fn new(attentive: &[usize]) -> Self {
        const QUARTER: usize = 2;
        let levels = attentive.iter().copied();
        let level = levels.min_by_key(|&level| (level.abs_diff(QUARTER), level));
        Self {
            level: level.unwrap_or(QUARTER),
        }
    }

    /// The intervention at `site` of a control that reads the maps of words, outside of
    /// steps with early prompts.
    fn intervention(self, site: &Site, early: bool) -> Intervention {
        let is_cross = site.kind == AttentionKind::CrossAttention;
        let is_read = is_cross && site.place != BlockPlace::Mid && site.level == self.level;
        match is_read && !early {
            true => Intervention::Maps,
            false => Intervention::None,
        }
    }
}

/// Adds maps to a sum.
fn add_to(sum: &mut Option<Tensor>, maps: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + maps)?,
        None => maps,
    });
    Ok(())
}

/// The rows of several tensors that all begin with the same `sources`, those once.
pub(crate) fn join_rows(groups: &[Tensor], sources: usize) -> Result<Tensor> {
    let own = |(index, group): (usize, &Tensor)| match index {
        0 => Ok(group.clone()),
        _ => group.narrow(0, sources, group.dim(0)? - sources),
    };
    let rows: Vec<_> = groups
        .iter()
        .enumerate()
        .map(own)
        .collect::<Result<_, _>>()?;
    Ok(Tensor::cat(&rows, 0)?)
}

/// Keeps the latents x (rows, 4, h, w) where the mask (rows or 1, 1, h, w) is 1 and
/// replaces them with those of the first row, the source, where it is 0.
fn masked(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let source = x.narrow(0, 0, 1)?;
    let change = x.broadcast_sub(&source)?.broadcast_mul(mask)?;
    Ok(change.broadcast_add(&source)?)
}
