//! The settings of a picture as they took effect, with those that were left to the program:
//! what repeats the picture whatever later versions choose.

use anyhow::Result;
use clap::{ValueEnum, builder::PossibleValue};
use icd::{
    control::{Blend, ControlMode, ControlPlan, CrossReplaceSteps},
    guidance::Guidance,
    model::Model,
    pipeline::{Edit, Method},
    prompt::{Prompt, words::WordTokens},
};
use serde_json::{Value, json};

use super::{
    args::values,
    settings::{Settings, number},
};

impl Settings {
    /// The settings of the edit from `source` to `target`, one of the edit's targets.
    pub(crate) fn of_edit(
        self,
        model: &Model,
        edit: &Edit,
        (source, target): (&Prompt, &Prompt),
    ) -> Result<Self> {
        let plan = &edit.control;
        let mode = plan.mode_for(source, target).to_possible_value();
        let mode = mode.as_ref().map(PossibleValue::get_name);
        let early = match edit.early_prompt {
            Some(_) => "source", // else it was given
            None => "target",
        };
        let settings = self
            .with("src_prompt", source.text())
            .with("tgt_prompt", [target.text()])
            .of_method(&edit.method)
            .of_guidance(edit.guidance)
            .with("cross_replace", cross_replace(&plan.cross))
            .with("self_replace", number(&plan.self_replace.to_string()))
            .chosen("control", json!(mode))
            .chosen("early_prompt", early);
        let settings = match plan.mode {
            ControlMode::Masactrl => {
                let blocks = model.unet_config().transformer_blocks();
                let steps = edit.method.reverse_timesteps(model)?.count();
                let start = plan.masactrl_start(steps, blocks).to_string();
                settings.chosen("masactrl_start", start)
            }
            _ => settings,
        };
        let settings = match amplified(plan, source, target) {
            Some(words) => settings.chosen("amplify", words),
            None => settings, // `auto` says it best
        };
        let pairs = paired(
            &plan.blend,
            (source, target),
            ControlPlan::blended,
            |blend| ControlPlan {
                blend,
                ..plan.clone()
            },
        );
        let settings = match &plan.blend[..] {
            [] => settings.chosen("blend", json!(["none"])),
            _ if plan.blends_by_difference() => settings.chosen("blend", json!(["difference"])),
            given => settings.of_pairs("blend", given, pairs),
        };
        let settings = match plan.blend_threshold() {
            Some(threshold) => settings.chosen("blend_threshold", number(&threshold.to_string())),
            None => settings,
        };
        let mask = &plan.masactrl_mask;
        let pairs = paired(
            mask,
            (source, target),
            ControlPlan::masked,
            |masactrl_mask| ControlPlan {
                masactrl_mask,
                ..plan.clone()
            },
        );
        settings
            .of_pairs("masactrl_mask", mask, pairs)
            .made_with(model)
    }

    /// The setting of pairs of words that `pairs` name for this target.
    fn of_pairs(self, key: &str, given: &[Blend], pairs: Option<Vec<String>>) -> Self {
        match pairs {
            Some(pairs) if given.contains(&Blend::Auto) => self.chosen(key, json!(pairs)),
            // The others are for other targets: this one lacks their words.
            Some(pairs) if pairs.len() < given.len() => self.with(key, json!(pairs)),
            _ => self,
        }
    }

    /// The settings of a method other than that of consistency models.
    pub(crate) fn of_method(self, method: &Method) -> Self {
        let Some(steps) = method.steps() else {
            return self;
        };
        let settings = self.chosen("method", method.name());
        let settings = settings.chosen("steps", steps.count());
        match method.null_text() {
            Some(null_text) if !null_text.begin.is_empty() => {
                settings.chosen("negative_prompt", null_text.begin.clone())
            }
            _ => settings,
        }
    }

    /// The settings of guidance.
    pub(crate) fn of_guidance(self, guidance: Guidance) -> Self {
        let tau = number(&guidance.tau().to_string());
        self.chosen("guidance", guidance.strength())
            .chosen("tau", tau)
    }
}

/// The values of `--cross-replace`.
fn cross_replace(steps: &CrossReplaceSteps) -> Value {
    let words = steps.words.iter();
    let words = words.map(|(word, range)| json!(format!("{word}={range}")));
    words.chain([number(&steps.default.to_string())]).collect()
}

/// The values of `--amplify` that name the words which are amplified, if naming them has the
/// same effect: a word that is new at one place only may stand at others, too.
fn amplified(plan: &ControlPlan, source: &Prompt, target: &Prompt) -> Option<Value> {
    let amplified = plan.amplified(source, target);
    let words = amplified.iter();
    let words = words.map(|(found, factor)| format!("{}={factor}", found.word));
    let words: Vec<_> = words.collect();
    let read = words.iter().map(|word| values::amplify(word).ok()?);
    let named = ControlPlan {
        amplify: read.collect::<Option<_>>()?,
        ..plan.clone()
    };
    let is_same = named.amplified(source, target) == amplified;
    is_same.then(|| match words.is_empty() {
        true => json!(["none"]),
        false => json!(words),
    })
}

/// What pairs of words a plan means for two prompts.
type Pairs = fn(&ControlPlan, &Prompt, &Prompt) -> icd::Result<Vec<(WordTokens, WordTokens)>>;

/// The values that name the pairs of words `given` of a plan, if naming them has the same effect;
/// `plan` is the one with others.
fn paired(
    given: &[Blend],
    (source, target): (&Prompt, &Prompt),
    meant: Pairs,
    plan: impl Fn(Vec<Blend>) -> ControlPlan,
) -> Option<Vec<String>> {
    let found = meant(&plan(given.to_vec()), source, target).ok()?;
    let pairs = found.iter();
    let pairs: Vec<_> = pairs
        .map(|(from, to)| format!("{}:{}", from.word, to.word))
        .collect();
    let read = pairs.iter().map(|pair| values::blend(pair).ok()?);
    let named = plan(read.collect::<Option<_>>()?);
    let is_same = meant(&named, source, target).ok()? == found;
    (is_same && !pairs.is_empty()).then_some(pairs)
}
