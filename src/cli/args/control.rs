//! The flags that control an edit.

use clap::Args;
use icd::{
    control::{
        Amplify, Anchor, Blend, BlendThreshold, ControlMode, ControlPlan, CrossReplaceSteps,
        MasactrlStart, StepRange,
    },
    guidance::Tau,
    model::{MethodName, Model},
    pipeline::{Edit, Outputs},
};

use super::{
    method::{Chosen, GivenGuidance},
    values::{EarlyPrompt, amplify, blend, cross_replace, masactrl_mask},
};

/// The heading of these flags in the help. None of them changes the inversion.
pub(crate) const HEADING: &str = "Strength and control";

/// What preserves the picture, and how far the edit goes.
#[derive(Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct ControlArgs {
    /// Guidance scale of the target prompt [default: 19 for SD1.5, 7 for SDXL, or as the
    /// model's icd.toml says; 7.5 for methods other than icd, where 1 is unguided].
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// The fraction of the timesteps, from clean (0) to noise (1), above which guidance is off; a lower
    /// tau preserves more of the picture; 0.7..0.9 is a ramp [default: 0.8 or 0.7,
    /// depending on the reverse adapter's timesteps, or as the model's icd.toml says; 1 for
    /// methods other than icd].
    #[arg(long, allow_negative_numbers = true)]
    tau: Option<Tau>,
    /// How attention follows the source (prompt-to-prompt, or MasaCtrl).
    #[arg(long, default_value = "auto")]
    control: ControlMode,
    /// The step and the self-attention layer, counted from 0, where MasaCtrl begins; later ones
    /// change more [default: 1:10 for SD1.5, 1:44 for SDXL; 4:10 and 4:44 of 50 steps].
    #[arg(long, value_name = "STEP:LAYER")]
    masactrl_start: Option<MasactrlStart>,
    /// Masks of MasaCtrl: what a target word covers reads what its source word covers, and the
    /// rest the rest; auto: the words that differ; repeat it for several [default: no masks].
    #[arg(long, value_name = "SRC:TGT|auto", value_parser = masactrl_mask, allow_hyphen_values = true)]
    masactrl_mask: Vec<Blend>,
    /// The fraction of steps in which cross-attention follows the source; word=FRACTION
    /// or word=FROM..TO for one word [default: 0.3].
    #[arg(long, value_name = "FRACTION", value_parser = cross_replace, allow_hyphen_values = true)]
    cross_replace: Vec<(Option<String>, StepRange)>,
    /// The fraction of steps in which self-attention, which sets the layout, is the
    /// source's; or FROM..TO.
    #[arg(
        long,
        value_name = "FRACTION",
        default_value = "0.6",
        allow_negative_numbers = true
    )]
    self_replace: StepRange,
    /// Set the source back to the inversion's own latents after each step (direct inversion):
    /// what the edit keeps is then the picture's own, not its reconstruction.
    #[arg(
        long,
        value_name = "on|off",
        default_value = "off",
        hide_possible_values = true
    )]
    #[arg(num_args = 0..=1, default_missing_value = "on")]
    anchor: Anchor,
    /// Multiply the attention to a target word; auto: each new word by 4; none: no word; repeat
    /// it for several [default: auto].
    #[arg(long, value_name = "WORD=FACTOR", value_parser = amplify, allow_hyphen_values = true)]
    amplify: Vec<Option<Amplify>>,
    /// Local blend: change the picture only where a source word or its target word is, as in
    /// cat:dog; repeat it for several; auto: the words that differ; difference: what the edit
    /// changes most, whatever the words (masks as DiffEdit's); none: anywhere [default: as the
    /// model's icd.toml says for its own method, else none].
    #[arg(long, value_name = "AREA", value_parser = blend)]
    #[arg(allow_hyphen_values = true)]
    blend: Vec<Option<Blend>>,
    /// Where the area of --blend ends, as a fraction of the strongest attention or difference, 0 to
    /// below 1: a smaller one lets more of the picture change [default: 0.3 for words, 0.15 for
    /// difference].
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true)]
    blend_threshold: Option<BlendThreshold>,
    /// The prompt of the targets in the early steps, while guidance is off or reduced (see
    /// --tau) [default: target; source for SDXL with --control auto].
    #[arg(long, value_name = "source|target|TEXT", allow_hyphen_values = true)]
    early_prompt: Option<EarlyPrompt>,
}

impl ControlArgs {
    /// The edit from a source prompt to targets that these flags describe.
    pub(crate) fn edit(
        &self,
        model: &Model,
        chosen: Chosen,
        source: String,
        targets: Vec<String>,
    ) -> Edit {
        Edit {
            early_prompt: self.early_prompt(model, &source),
            source,
            targets,
            control: self.plan(model, chosen.method.kind()),
            method: chosen.method,
            guidance: chosen.guidance,
            negative_prompt: chosen.negative_prompt,
            mask: None,
            outputs: Outputs::default(),
        }
    }

    /// The guidance that was given.
    pub(crate) fn guidance(&self) -> GivenGuidance {
        GivenGuidance {
            strength: self.guidance,
            tau: self.tau,
        }
    }

    fn plan(&self, model: &Model, method: MethodName) -> ControlPlan {
        let mode = match self.control {
            ControlMode::Auto if !model.family().edits_by_attention() => ControlMode::None,
            given => given,
        };
        ControlPlan {
            mode,
            masactrl_start: self.masactrl_start,
            masactrl_mask: self.masactrl_mask.clone(),
            cross: self.cross(),
            self_replace: self.self_replace,
            amplify: self.amplify(),
            blend: self.blend(model, method),
            blend_threshold: self.blend_threshold,
            anchor: self.anchor,
        }
    }

    fn cross(&self) -> CrossReplaceSteps {
        let mut steps = CrossReplaceSteps {
            default: StepRange::CROSS,
            words: Vec::new(),
        };
        for value in &self.cross_replace {
            match value {
                (Some(word), range) => steps.words.push((word.clone(), *range)),
                (None, range) => steps.default = *range,
            }
        }
        steps
    }

    /// All that was given, or the default; `none` adds nothing.
    fn amplify(&self) -> Vec<Amplify> {
        match self.amplify.is_empty() {
            true => vec![Amplify::Auto],
            false => self.amplify.iter().flatten().cloned().collect(),
        }
    }

    /// Whether the flags say by what words an edit is blended: the words of all targets.
    pub(crate) fn blends_by_words(&self) -> bool {
        let mut given = self.blend.iter().flatten();
        given.any(|blend| *blend != Blend::Difference)
    }

    /// All that was given, or the model's default; `none` adds nothing.
    fn blend(&self, model: &Model, method: MethodName) -> Vec<Blend> {
        match self.blend.is_empty() {
            true => Blend::by_default(model.stated_blend(method)),
            false => self.blend.iter().flatten().cloned().collect(),
        }
    }

    /// The early prompt of the targets: as given, else the source prompt if that
    /// is the default of the model family.
    fn early_prompt(&self, model: &Model, source: &str) -> Option<String> {
        let by_default = self.control == ControlMode::Auto && !model.family().edits_by_attention();
        match &self.early_prompt {
            Some(EarlyPrompt::Source) => Some(source.into()),
            Some(EarlyPrompt::Text(text)) => Some(text.clone()),
            None if by_default => Some(source.into()),
            Some(EarlyPrompt::Target) | None => None,
        }
    }
}
