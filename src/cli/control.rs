//! The flags that hold an edit to its picture.

use clap::{Args, ValueEnum};
use icd::{
    edit::{Amplify, Blend, ControlPlan, Edit, Extras, Mode, Reach, Span},
    guidance::{Guidance, Tau},
    model::Model,
};

use super::values::{AmplifyValue, BlendValue, CrossReplace, EarlyPrompt};

/// What holds the edit to the picture, and how far it goes.
#[derive(Args)]
#[command(next_help_heading = "Strength and control")]
pub(super) struct ControlArgs {
    /// How strongly the target prompt is followed [default: 19 for SD1.5,
    /// 7 for SDXL, or as the model's icd.toml says].
    #[arg(long)]
    guidance: Option<f64>,
    /// Guidance ends here on the way from clean (0) to noise (1); a lower tau
    /// keeps more of the picture; 0.7..0.9 is a ramp [default: 0.8 or 0.7, as
    /// suits the reverse adapter's path, or as the model's icd.toml says].
    #[arg(long)]
    tau: Option<Tau>,
    /// How attention to words follows the source.
    #[arg(long, default_value = "auto")]
    control: ModeValue,
    /// The share of the steps in which it does; word=SHARE or word=FROM..TO for
    /// one word [default: 0.3].
    #[arg(long, value_name = "SHARE")]
    cross_replace: Vec<CrossReplace>,
    /// The share of the steps in which the layout is the source's.
    #[arg(long, value_name = "SHARE", default_value = "0.6")]
    self_replace: Span,
    /// Multiply the attention to a target word; auto: each new word by 4 [default: auto].
    #[arg(long, value_name = "WORD=FACTOR|auto|none")]
    amplify: Vec<AmplifyValue>,
    /// Change the picture only where these words are, source:target.
    #[arg(long, value_name = "SRC:TGT|auto")]
    blend: Vec<BlendValue>,
    /// The prompt until guidance is full; SDXL's default is source where no
    /// control is asked for.
    #[arg(long, value_name = "source|target|TEXT")]
    early_prompt: Option<EarlyPrompt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeValue {
    /// Replace where the word counts agree, else refine; none on SDXL.
    Auto,
    /// Word for word.
    Replace,
    /// Along the words that both prompts have.
    Refine,
    /// Not at all.
    None,
}

impl ControlArgs {
    /// The edit from a source prompt to targets that they ask of a model.
    pub(super) fn edit(
        &self,
        model: &Model,
        source: String,
        targets: Vec<String>,
    ) -> icd::Result<Edit> {
        let tau = match self.tau {
            Some(tau) => tau,
            None => model.edit_tau()?,
        };
        let strength = self.guidance.unwrap_or(model.edit_guidance());
        Ok(Edit {
            early_prompt: self.early_prompt(model, &source),
            source,
            targets,
            guidance: Guidance::new(strength, tau)?,
            control: self.plan(model),
            mask: None,
            extras: Extras::default(),
        })
    }

    fn plan(&self, model: &Model) -> ControlPlan {
        let mode = match self.control {
            ModeValue::Auto if !model.family().edits_by_attention() => Mode::None,
            ModeValue::Auto => Mode::Auto,
            ModeValue::Replace => Mode::Replace,
            ModeValue::Refine => Mode::Refine,
            ModeValue::None => Mode::None,
        };
        ControlPlan {
            mode,
            cross: self.cross(),
            itself: self.self_replace,
            amplify: self.amplify(),
            blend: self.blend(),
        }
    }

    fn cross(&self) -> Reach {
        let mut reach = Reach {
            default: Span::CROSS,
            words: Vec::new(),
        };
        for value in &self.cross_replace {
            match value {
                CrossReplace::All(span) => reach.default = *span,
                CrossReplace::Word(word, span) => reach.words.push((word.clone(), *span)),
            }
        }
        reach
    }

    fn amplify(&self) -> Amplify {
        let word = |value: &AmplifyValue| match value {
            AmplifyValue::Word(word, factor) => Some((word.clone(), *factor)),
            AmplifyValue::Auto | AmplifyValue::None => None,
        };
        let auto =
            self.amplify.is_empty() || self.amplify.iter().any(|v| matches!(v, AmplifyValue::Auto));
        match auto {
            true => Amplify::Auto,
            false => Amplify::Words(self.amplify.iter().filter_map(word).collect()),
        }
    }

    fn blend(&self) -> Blend {
        let pair = |value: &BlendValue| match value {
            BlendValue::Pair(source, target) => Some((source.clone(), target.clone())),
            BlendValue::Auto => None,
        };
        match self
            .blend
            .iter()
            .any(|value| matches!(value, BlendValue::Auto))
        {
            true => Blend::Auto,
            false => Blend::Words(self.blend.iter().filter_map(pair).collect()),
        }
    }

    /// The early prompt of the targets: as asked, else the source where the
    /// family keeps it that way.
    fn early_prompt(&self, model: &Model, source: &str) -> Option<String> {
        let by_default = self.control == ModeValue::Auto && !model.family().edits_by_attention();
        match &self.early_prompt {
            Some(EarlyPrompt::Source) => Some(source.into()),
            Some(EarlyPrompt::Text(text)) => Some(text.clone()),
            None if by_default => Some(source.into()),
            Some(EarlyPrompt::Target) | None => None,
        }
    }
}
