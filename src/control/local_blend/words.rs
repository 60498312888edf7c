//! Where chosen words attend.

use std::ops::Range;

use candle_core::{D, DType, Tensor};

use super::{BlendThreshold, exceeding};
use crate::{
    control::{WordSites, add_to},
    error::Result,
    model::attention::{Intervention, Site},
};

/// The tokens that a blend is over: (targets, tokens), 1 for those that are chosen, else 0, on
/// the device of the latents.
#[derive(Clone, Debug)]
pub struct BlendWords {
    /// Those of the source prompt, for each target.
    pub source: Tensor,
    /// Those of each target's prompt.
    pub target: Tensor,
}

/// The words' maps, summed over tokens, heads, layers and steps, except steps with early prompts.
#[derive(Clone, Debug)]
pub(super) struct WordMaps {
    words: BlendWords,
    sites: WordSites,
    /// Of the source for each target and then of the targets: (2 x targets, 1, height, width).
    sum: Option<Tensor>,
}

impl BlendWords {
    /// Those of some of the targets.
    fn of_targets(&self, targets: &Range<usize>) -> Result<Self> {
        let own = |words: &Tensor| words.narrow(0, targets.start, targets.len());
        Ok(Self {
            source: own(&self.source)?,
            target: own(&self.target)?,
        })
    }
}

impl WordMaps {
    /// For a network with attention at these levels.
    pub(super) fn new(words: BlendWords, attentive: &[usize]) -> Self {
        Self::at(words, WordSites::new(attentive))
    }

    fn at(words: BlendWords, sites: WordSites) -> Self {
        Self {
            words,
            sites,
            sum: None,
        }
    }

    /// Those of some of the targets.
    pub(super) fn of_targets(&self, targets: &Range<usize>) -> Result<Self> {
        Ok(Self::at(self.words.of_targets(targets)?, self.sites))
    }

    pub(super) fn intervention(&self, site: &Site, early: bool) -> Intervention {
        self.sites.intervention(site, early)
    }

    /// Adds maps (rows, heads, queries, tokens).
    pub(super) fn add(&mut self, site: &Site, maps: &Tensor) -> Result<()> {
        let source = of_words(&maps.narrow(0, 0, 1)?, &self.words.source)?;
        let own = maps.narrow(0, 1, maps.dim(0)? - 1)?;
        let sums = [source, of_words(&own, &self.words.target)?];
        let sum = Tensor::cat(&sums, 0)?.to_dtype(DType::F32)?;
        let sum = sum.reshape(((), 1, site.height, site.width))?;
        add_to(&mut self.sum, sum)
    }

    /// 1 where a target's words or those of the source for it attend, else 0, (targets, 1, h, w) of
    /// this size (h, w), if any maps were added.
    pub(super) fn mask(
        &self,
        threshold: BlendThreshold,
        size: (usize, usize),
    ) -> Result<Option<Tensor>> {
        let Some(maps) = &self.sum else {
            return Ok(None);
        };
        let mask = exceeding(maps, threshold, size)?;
        let targets = mask.dim(0)? / 2;
        let [source, own] = [0, targets].map(|first| mask.narrow(0, first, targets));
        Ok(Some(source?.maximum(&own?)?))
    }
}

/// The maps (rows or 1, heads, queries, tokens) of each row's words (rows, tokens), summed over
/// heads and tokens: (rows, queries).
fn of_words(maps: &Tensor, words: &Tensor) -> Result<Tensor> {
    let words = words.to_dtype(maps.dtype())?;
    let words = words.unsqueeze(1)?.unsqueeze(1)?; // (rows, 1, 1, tokens)
    Ok(maps.broadcast_mul(&words)?.sum(D::Minus1)?.sum(1)?)
}
