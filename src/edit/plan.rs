//! What a person asks of the control, and the control it becomes for some
//! prompts and a walk.

use candle_core::{Device, Tensor};

use super::{
    LocalBlend, PromptToPrompt, Reach, Span,
    control::{CrossEdit, Target, per_token},
};
use crate::{
    error::{Error, Result},
    prompt::{Prompt, Refine, Replace, Word, words},
};

/// How the target's cross-attention follows the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Replace where the word counts agree, else refine.
    Auto,
    /// Word for word; the prompts have equally many.
    Replace,
    /// Along the alignment of the prompts' tokens.
    Refine,
    /// Not at all.
    None,
}

/// Target words whose attention is multiplied.
#[derive(Clone, Debug, PartialEq)]
pub enum Amplify {
    /// Every word that the source lacks, stop words left out, by 4; none
    /// where there is no control.
    Auto,
    /// These words, wherever a target has them.
    Words(Vec<(String, f64)>),
}

/// The factor of [`Amplify::Auto`].
const AUTO_FACTOR: f64 = 4.0;

/// The words between which the latent may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Blend {
    /// The words in whose place the target has others.
    Auto,
    /// Pairs of a source word and a target word; none of them: no blend.
    Words(Vec<(String, String)>),
}

/// What holds an edit to its source.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlPlan {
    /// How cross-attention follows the source.
    pub mode: Mode,
    /// When it does.
    pub cross: Reach,
    /// When self-attention is the source's.
    pub itself: Span,
    /// Which words are amplified.
    pub amplify: Amplify,
    /// Which words the edit is confined to.
    pub blend: Blend,
}

/// What a control must know of its walk.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Number of steps.
    pub steps: usize,
    /// The first steps in which the targets read another prompt.
    pub early_steps: usize,
    /// The levels of the UNet that attend, as counts of halvings.
    pub attentive_levels: Vec<usize>,
    /// Where the network runs: what the control needs lies there from the start.
    pub device: Device,
}

impl Default for ControlPlan {
    /// Prompt-to-prompt as the reference's batch script sets it up: words are
    /// replaced or refined for 0.3 of the steps, the layout is held for 0.6 of
    /// them, new words are amplified, and nothing is blended.
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            cross: Reach {
                default: Span::CROSS,
                words: Vec::new(),
            },
            itself: Span::ITSELF,
            amplify: Amplify::Auto,
            blend: Blend::Words(Vec::new()),
        }
    }
}

impl ControlPlan {
    /// The control for prompts (the source first), or `None` where nothing is
    /// to be controlled.
    pub fn control(&self, prompts: &[Prompt], stage: &Stage) -> Result<Option<PromptToPrompt>> {
        let (source, targets) = prompts
            .split_first()
            .ok_or_else(|| Error::setting("an edit needs a source prompt"))?;
        self.check_words(targets)?;
        let blend = self.local_blend(source, targets, stage)?;
        if self.mode == Mode::None && blend.is_none() && !self.amplifies() {
            return Ok(None);
        }
        let targets = targets
            .iter()
            .map(|target| self.target(source, target, stage))
            .collect::<Result<_>>()?;
        let self_steps = match self.mode {
            Mode::None => 0..0,
            _ => self.itself.of(stage.steps),
        };
        let control = PromptToPrompt::new(targets, self_steps);
        Ok(Some(
            control
                .owning_prompts_from(stage.early_steps)
                .with_blend(blend),
        ))
    }

    /// The words that are amplified in a target, with their factors.
    pub fn amplified(&self, source: &Prompt, target: &Prompt) -> Vec<(String, f64)> {
        match (&self.amplify, self.mode) {
            (Amplify::Auto, Mode::None) => Vec::new(),
            (Amplify::Auto, _) => words::new_words(source, target)
                .into_iter()
                .map(|word| (word, AUTO_FACTOR))
                .collect(),
            (Amplify::Words(words), _) => words
                .iter()
                .filter(|(word, _)| target.find(word).is_ok())
                .cloned()
                .collect(),
        }
    }

    /// The pairs of words that the edit to a target is confined to.
    pub fn blended(&self, source: &Prompt, target: &Prompt) -> Vec<(String, String)> {
        match &self.blend {
            Blend::Auto => words::changed_pairs(source, target),
            Blend::Words(pairs) => pairs.clone(),
        }
    }

    /// How this plan edits cross-attention from `source` to `target`.
    pub fn mode_for(&self, source: &Prompt, target: &Prompt) -> Mode {
        match self.mode {
            Mode::Auto if words::same_word_count(source, target) => Mode::Replace,
            Mode::Auto => Mode::Refine,
            mode => mode,
        }
    }

    /// Each of the target's words with the source's word whose attention it
    /// takes over; none for words that keep their own.
    pub fn followed(&self, source: &Prompt, target: &Prompt) -> Vec<(String, Option<String>)> {
        let words = target.words().iter().enumerate();
        let refine = Refine::new(source, target);
        let by_place = |place: usize| source.words().get(place);
        let by_token = |token: usize| {
            let (from, keep) = (refine.map.get(token)?, refine.keep.get(token)?);
            let is_its = |word: &&Word| *keep > 0.0 && word.tokens.contains(from);
            source.words().iter().find(is_its)
        };
        let mode = self.mode_for(source, target);
        let from = |place: usize, word: &Word| match mode {
            Mode::Replace => by_place(place),
            Mode::Refine => by_token(word.tokens.start),
            Mode::Auto | Mode::None => None,
        };
        words
            .map(|(place, word)| {
                let from = from(place, word).map(|from| from.text.clone());
                (word.text.clone(), from)
            })
            .collect()
    }

    fn amplifies(&self) -> bool {
        matches!(&self.amplify, Amplify::Words(words) if !words.is_empty())
    }

    fn target(&self, source: &Prompt, target: &Prompt, stage: &Stage) -> Result<Target> {
        Ok(Target {
            edit: self.cross_edit(source, target, &stage.device)?,
            emphasis: self.emphasis(source, target, &stage.device)?,
            reach: self.reach(target, stage)?,
        })
    }

    fn cross_edit(&self, source: &Prompt, target: &Prompt, device: &Device) -> Result<CrossEdit> {
        Ok(match self.mode_for(source, target) {
            Mode::None | Mode::Auto => CrossEdit::Own,
            Mode::Refine => {
                let Refine { map, keep } = Refine::new(source, target);
                let map: Vec<u32> = map.into_iter().map(|from| from as u32).collect();
                CrossEdit::Refine {
                    map: Tensor::new(map, device)?,
                    keep: per_token(keep, device)?,
                }
            }
            Mode::Replace => {
                let Replace { matrix, shape } = Replace::new(source, target)?;
                CrossEdit::Replace(Tensor::from_vec(matrix, shape, device)?)
            }
        })
    }

    /// The factor of each of the target's tokens.
    fn emphasis(&self, source: &Prompt, target: &Prompt, device: &Device) -> Result<Tensor> {
        let mut factors = vec![1f32; target.context()];
        for (word, factor) in self.amplified(source, target) {
            // A new word that fell to the truncation has no tokens to amplify.
            for token in target.find(&word).unwrap_or_default() {
                factors[token] = factor as f32;
            }
        }
        per_token(factors, device)
    }

    /// Which of the target's tokens are edited at each step. The shares are of
    /// steps + 1, as in the reference.
    fn reach(&self, target: &Prompt, stage: &Stage) -> Result<Vec<Option<Tensor>>> {
        let steps = stage.steps;
        let default = self.cross.default.of(steps + 1);
        let mut spans = vec![default; target.context()];
        for (word, span) in &self.cross.words {
            for token in target.find(word).unwrap_or_default() {
                spans[token] = span.of(steps + 1);
            }
        }
        let at = |step: usize| -> Result<Option<Tensor>> {
            let tokens: Vec<f32> = spans
                .iter()
                .map(|span| f32::from(u8::from(span.contains(&step))))
                .collect();
            tokens
                .contains(&1.0)
                .then(|| per_token(tokens, &stage.device))
                .transpose()
        };
        (0..steps).map(at).collect()
    }

    fn local_blend(
        &self,
        source: &Prompt,
        targets: &[Prompt],
        stage: &Stage,
    ) -> Result<Option<LocalBlend>> {
        if matches!(&self.blend, Blend::Words(pairs) if pairs.is_empty()) {
            return Ok(None);
        }
        let pairs: Vec<_> = targets
            .iter()
            .map(|target| self.blended(source, target))
            .collect();
        let mut rows = vec![vec![0f32; source.context()]];
        for (word, _) in pairs.iter().flatten() {
            mark(&mut rows[0], &source.find(word)?);
        }
        for (target, pairs) in targets.iter().zip(&pairs) {
            let mut row = vec![0f32; target.context()];
            for (_, word) in pairs {
                // With several targets a pair belongs to those that have its word.
                mark(&mut row, &target.find(word).unwrap_or_default());
            }
            rows.push(row);
        }
        if pairs.iter().all(Vec::is_empty) {
            let reason = "--blend auto finds no words that differ one for one; \
                          name them, as in --blend bird:dog";
            return Err(Error::prompt(source.text(), reason));
        }
        LocalBlend::new(&Tensor::new(rows, &stage.device)?, &stage.attentive_levels).map(Some)
    }

    /// Every word that was named for the targets must be in one of them.
    fn check_words(&self, targets: &[Prompt]) -> Result<()> {
        let amplified = match &self.amplify {
            Amplify::Auto => &[][..],
            Amplify::Words(words) => words,
        };
        let blended = match &self.blend {
            Blend::Auto => &[][..],
            Blend::Words(pairs) => pairs,
        };
        let amplified = amplified.iter().map(|(word, _)| word);
        let bounded = self.cross.words.iter().map(|(word, _)| word);
        let blended = blended.iter().map(|(_, word)| word);
        amplified
            .chain(bounded)
            .chain(blended)
            .try_for_each(|word| found_in_any(word, targets))
    }
}

fn found_in_any(word: &str, targets: &[Prompt]) -> Result<()> {
    let mut faults = targets.iter().map(|target| target.find(word));
    match targets.iter().any(|target| target.find(word).is_ok()) {
        true => Ok(()),
        false => faults.next().map_or(Ok(()), |fault| fault.map(|_| ())),
    }
}

fn mark(row: &mut [f32], tokens: &[usize]) {
    for &token in tokens {
        row[token] = 1.0;
    }
}
