//! The user's settings of a control, and the controls made from them for given
//! prompts.

mod pairs;
mod targets;

use std::ops::Range;

use candle_core::{Device, Tensor};
use clap::ValueEnum;

pub use pairs::Blend;

use super::{
    Anchor, BlendThreshold, BlendWords, CrossReplaceSteps, LocalBlend, MasactrlStart, MaskWords,
    MaskedSelfAttention, MutualSelfAttention, PromptToPrompt, StepRange,
};
use crate::{
    error::{Error, Result, Setting},
    prompt::{
        Prompt, Refine, Word,
        words::{self, WordTokens},
    },
};

use pairs::{no_pairs, pairs};

/// How the target's attention follows the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ControlMode {
    /// Replace if both prompts have the same number of words, else refine.
    #[value(
        help = "Replace if both prompts have the same number of words, else refine; none on SDXL"
    )]
    Auto,
    /// Cross-attention maps of words one for one.
    Replace,
    /// Cross-attention maps of the words that both prompts have.
    Refine,
    /// Self-attention reads the source's keys and values (MasaCtrl): for other poses.
    Masactrl,
    /// Neither cross- nor self-attention follows the source.
    None,
}

impl ControlMode {
    /// Whether attention maps follow the source's.
    fn follows_maps(self) -> bool {
        match self {
            Self::Auto | Self::Replace | Self::Refine => true,
            Self::Masactrl | Self::None => false,
        }
    }
}

/// Target words whose attention is multiplied by a factor.
#[derive(Clone, Debug, PartialEq)]
pub enum Amplify {
    /// Every word that is new in the target, except stop words, by 4, where it is new; none
    /// without cross-attention control.
    Auto,
    /// A word, in all targets that contain it, wherever it stands.
    Word(String, f64),
}

/// The factor of [`Amplify::Auto`].
const AUTO_FACTOR: f64 = 4.0;

/// The settings that keep an edit close to its source.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlPlan {
    /// How attention follows the source.
    pub mode: ControlMode,
    /// Where MasaCtrl begins; by default [`MasactrlStart::usual`] says.
    pub masactrl_start: Option<MasactrlStart>,
    /// The words whose attention masks it; without any there is no mask.
    pub masactrl_mask: Vec<Blend>,
    /// The steps in which it does.
    pub cross: CrossReplaceSteps,
    /// The steps in which self-attention maps are the source's.
    pub self_replace: StepRange,
    /// The amplified words; a later factor replaces an earlier one.
    pub amplify: Vec<Amplify>,
    /// What local blend goes by; without anything there is none.
    pub blend: Vec<Blend>,
    /// Where it ends; by default [`BlendThreshold`] says, by what it goes by.
    pub blend_threshold: Option<BlendThreshold>,
    /// Whether the source is anchored.
    pub anchor: Anchor,
}

/// The controls for given prompts, in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// Edits attention maps.
    pub prompt_to_prompt: Option<PromptToPrompt>,
    /// Lets targets see the source's features.
    pub mutual_self_attention: Option<MutualSelfAttention>,
    /// The same in two parts, in its place.
    pub masked_self_attention: Option<MaskedSelfAttention>,
    /// Keeps the latent where the chosen words do not attend.
    pub blend: Option<LocalBlend>,
}

impl Controls {
    /// The controls of the source and of some of the targets, which are counted from 0.
    pub fn of_targets(&self, targets: &Range<usize>) -> Result<Self> {
        let edit = self.prompt_to_prompt.as_ref();
        let blend = self.blend.as_ref();
        let masked = self.masked_self_attention.as_ref();
        Ok(Self {
            masked_self_attention: masked.map(|control| control.of_targets(targets)),
            prompt_to_prompt: edit.map(|control| control.of_targets(targets)),
            mutual_self_attention: self.mutual_self_attention,
            blend: blend.map(|blend| blend.of_targets(targets)).transpose()?,
        })
    }
}

/// The properties of a sampling loop that controls depend on.
#[derive(Clone, Debug)]
pub struct WalkInfo {
    /// Number of steps.
    pub steps: usize,
    /// The first step, from 0, after which local blend acts.
    pub blend_from: usize,
    /// The levels of the UNet with attention (number of times the side is halved).
    pub attentive_levels: Vec<usize>,
    /// Number of its transformer blocks.
    pub transformer_blocks: usize,
    /// The device of the network, for the tensors of the control.
    pub device: Device,
}

impl Default for ControlPlan {
    /// The settings of the reference's batch script: cross-attention is replaced or
    /// refined in 0.3 of the steps, self-attention replaced in 0.6 of them, new words
    /// are amplified, and there is no local blend.
    fn default() -> Self {
        Self {
            mode: ControlMode::Auto,
            masactrl_start: None,
            masactrl_mask: Vec::new(),
            cross: CrossReplaceSteps {
                default: StepRange::CROSS,
                words: Vec::new(),
            },
            self_replace: StepRange::SELF_REPLACE,
            amplify: vec![Amplify::Auto],
            blend: Vec::new(),
            blend_threshold: None,
            anchor: Anchor::default(),
        }
    }
}

impl ControlPlan {
    /// Creates the controls that were asked for; the source comes first in `prompts`.
    pub fn controls(&self, prompts: &[Prompt], walk: &WalkInfo) -> Result<Controls> {
        let (source, targets) = prompts
            .split_first()
            .ok_or_else(|| Error::setting("an edit needs a source prompt"))?;
        self.check_words(source, targets)?;
        let is_named = |amplify: &Amplify| matches!(amplify, Amplify::Word(..));
        let acts = self.mode.follows_maps() || self.amplify.iter().any(is_named);
        let prompt_to_prompt = acts.then(|| self.prompt_to_prompt(source, targets, walk));
        let start = self.checked_masactrl_start(walk)?;
        let (plain, masked) = match self.masactrl_mask.is_empty() {
            true => (start, None),
            false => (None, start),
        };
        let masked = masked.map(|start| {
            let targets = targets.iter();
            let words = targets.map(|target| self.mask_words(source, target));
            let words = words.collect::<Result<_>>()?;
            Ok::<_, Error>(MaskedSelfAttention::new(
                start,
                words,
                &walk.attentive_levels,
            ))
        });
        Ok(Controls {
            prompt_to_prompt: prompt_to_prompt.transpose()?,
            mutual_self_attention: plain.map(MutualSelfAttention::new),
            masked_self_attention: masked.transpose()?,
            blend: self.local_blend(source, targets, walk)?,
        })
    }

    /// The tokens whose attention masks MasaCtrl for a target.
    fn mask_words(&self, source: &Prompt, target: &Prompt) -> Result<MaskWords> {
        let pairs = self.masked(source, target)?;
        if pairs.is_empty() {
            return Err(no_pairs(Setting::MasactrlMask, target));
        }
        let (from, to): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let tokens = |words: Vec<WordTokens>| words.into_iter().flat_map(|word| word.tokens);
        Ok(MaskWords {
            source: tokens(from).collect(),
            target: tokens(to).collect(),
        })
    }

    /// Where MasaCtrl begins, if it is asked for.
    fn checked_masactrl_start(&self, walk: &WalkInfo) -> Result<Option<MasactrlStart>> {
        if self.mode != ControlMode::Masactrl {
            return Ok(None);
        }
        let start = self.masactrl_start(walk.steps, walk.transformer_blocks);
        start.check(walk.steps, walk.transformer_blocks)?;
        Ok(Some(start))
    }

    /// Where MasaCtrl begins in a walk of so many steps in a network of so many transformer
    /// blocks.
    pub fn masactrl_start(&self, steps: usize, transformer_blocks: usize) -> MasactrlStart {
        let usual = MasactrlStart::usual(steps, transformer_blocks);
        self.masactrl_start.unwrap_or(usual)
    }

    /// The amplified words of a target, with their factors.
    pub fn amplified(&self, source: &Prompt, target: &Prompt) -> Vec<(WordTokens, f64)> {
        let amplified = self.amplify.iter().map(|amplify| match amplify {
            Amplify::Auto if !self.mode.follows_maps() => Vec::new(),
            Amplify::Auto => {
                let words = words::new_words(source, target).into_iter();
                words.map(|word| (word, AUTO_FACTOR)).collect()
            }
            Amplify::Word(word, factor) => {
                let found = target.find_word(word).ok();
                found.map(|word| (word, *factor)).into_iter().collect()
            }
        });
        amplified.flatten().collect()
    }

    /// The pairs of words that local blend restricts the edit to a target to. With several
    /// targets a named word may be missing in this one: the pair is for others then. If all
    /// are, they have the tokens of the source alone.
    pub fn blended(
        &self,
        source: &Prompt,
        target: &Prompt,
    ) -> Result<Vec<(WordTokens, WordTokens)>> {
        pairs(&self.blend, words::differing_words, source, target)
    }

    /// The pairs of words whose attention masks MasaCtrl for a target, as [`blended`](Self::blended).
    pub fn masked(
        &self,
        source: &Prompt,
        target: &Prompt,
    ) -> Result<Vec<(WordTokens, WordTokens)>> {
        pairs(&self.masactrl_mask, words::changed_pairs, source, target)
    }

    /// How cross-attention follows from `source` to `target`, with `Auto` resolved.
    pub fn mode_for(&self, source: &Prompt, target: &Prompt) -> ControlMode {
        match self.mode {
            ControlMode::Auto if words::same_word_count(source, target) => ControlMode::Replace,
            ControlMode::Auto => ControlMode::Refine,
            mode => mode,
        }
    }

    /// Whether local blend goes by what the edit changes most.
    pub fn blends_by_difference(&self) -> bool {
        let is_difference = |blend: &Blend| *blend == Blend::Difference;
        !self.blend.is_empty() && self.blend.iter().all(is_difference)
    }

    /// Where local blend ends, if there is one.
    pub fn blend_threshold(&self) -> Option<BlendThreshold> {
        let usual = match self.blend[..] {
            [] => return None,
            _ if self.blends_by_difference() => BlendThreshold::DIFFERENCE,
            _ => BlendThreshold::WORDS,
        };
        Some(self.blend_threshold.unwrap_or(usual))
    }

    /// Each word of the target with the source word whose attention it uses, if any.
    pub fn followed(&self, source: &Prompt, target: &Prompt) -> Vec<(String, Option<String>)> {
        let (mode, refine) = (self.mode_for(source, target), Refine::new(source, target));
        let aligned = |token: usize| {
            let (from, keep) = (refine.map.get(token)?, refine.keep.get(token)?);
            let mut words = source.words().iter();
            words.find(|word| *keep > 0.0 && word.tokens.contains(from))
        };
        let followed = |(place, word): (usize, &Word)| {
            let from = match mode {
                ControlMode::Replace => source.words().get(place),
                ControlMode::Refine => aligned(word.tokens.start),
                ControlMode::Auto | ControlMode::Masactrl | ControlMode::None => None,
            };
            (word.text.clone(), from.map(|from| from.text.clone()))
        };
        target.words().iter().enumerate().map(followed).collect()
    }

    fn local_blend(
        &self,
        source: &Prompt,
        targets: &[Prompt],
        walk: &WalkInfo,
    ) -> Result<Option<LocalBlend>> {
        let blend = match self.blend[..] {
            [] => return Ok(None),
            _ if self.blends_by_difference() => LocalBlend::by_difference(),
            _ if self.blend.contains(&Blend::Difference) => {
                let reason = "difference is found without words: it stands alone";
                return Err(Error::of(Setting::Blend, reason));
            }
            _ => LocalBlend::by_words(
                self.blend_words(source, targets, &walk.device)?,
                &walk.attentive_levels,
            ),
        };
        let blend = match self.blend_threshold {
            Some(threshold) => blend.with_threshold(threshold),
            None => blend,
        };
        Ok(Some(blend.beginning_at(walk.blend_from)))
    }

    /// The tokens that local blend goes by.
    fn blend_words(
        &self,
        source: &Prompt,
        targets: &[Prompt],
        device: &Device,
    ) -> Result<BlendWords> {
        let (mut sources, mut own) = (Vec::new(), Vec::new());
        for target in targets {
            let pairs = self.blended(source, target)?;
            if pairs.is_empty() {
                return Err(no_pairs(Setting::Blend, target));
            }
            let (from, to): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            sources.push(marked(source, &from));
            own.push(marked(target, &to));
        }
        Ok(BlendWords {
            source: Tensor::new(sources, device)?,
            target: Tensor::new(own, device)?,
        })
    }

    /// Returns an error if a word that was named for the targets is in none of them.
    fn check_words(&self, source: &Prompt, targets: &[Prompt]) -> Result<()> {
        let amplified = self.amplify.iter().filter_map(|amplify| match amplify {
            Amplify::Word(word, _) => Some(&word[..]),
            Amplify::Auto => None,
        });
        let replaced = self.cross.words.iter().map(|(word, _)| &word[..]);
        let pairs = self.blend.iter().chain(&self.masactrl_mask);
        let blended = pairs.filter_map(|blend| match blend {
            Blend::Pair(pair) => Some(pair.reading(source, targets).1),
            Blend::Auto | Blend::Difference => None,
        });
        for word in amplified.chain(replaced).chain(blended) {
            let found = targets.iter().map(|target| target.find(word));
            let any = found.reduce(|found, next| found.or_else(|first| next.map_err(|_| first)));
            any.transpose()?;
        }
        Ok(())
    }
}

/// 1 for the tokens of these words of a prompt, else 0.
fn marked(prompt: &Prompt, words: &[WordTokens]) -> Vec<f32> {
    let mut row = vec![0.0; prompt.context()];
    for &token in words.iter().flat_map(|word| &word.tokens) {
        row[token] = 1.0;
    }
    row
}
