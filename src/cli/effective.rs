//! The settings of a picture as they took effect, with those that were left to the program:
//! what repeats the picture whatever later versions choose.

use anyhow::Result;
use clap::{ValueEnum, builder::PossibleValue};
use icd::{
    control::{Amplify, Blend, ControlPlan, CrossReplaceSteps},
    guidance::Guidance,
    model::Model,
    pipeline::Edit,
    prompt::Prompt,
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
            .of_guidance(edit.guidance)
            .with("cross_replace", cross_replace(&plan.cross))
            .with("self_replace", number(&plan.self_replace.to_string()))
            .chosen("amplify", amplified(plan, source, target))
            .chosen("control", json!(mode))
            .chosen("early_prompt", early);
        let settings = match &plan.blend {
            Blend::Auto => settings.chosen("blend", blended(plan, source, target)),
            Blend::Words(_) => settings,
        };
        settings.made_with(model)
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

/// The values of `--amplify` that name the words which `auto` amplifies.
fn amplified(plan: &ControlPlan, source: &Prompt, target: &Prompt) -> Value {
    let words = plan.amplified(source, target);
    let values = words.iter().map(|(word, factor)| {
        let value = format!("{word}={factor}");
        let same = Amplify::Words(vec![(word.clone(), *factor)]);
        let is_read = values::amplify(&value).is_ok_and(|read| read == same);
        (is_read && target.find(word).is_ok()).then_some(value)
    });
    match values.collect::<Option<Vec<_>>>() {
        Some(none) if none.is_empty() => json!(["none"]),
        Some(values) => json!(values),
        None => json!(["auto"]),
    }
}

/// The values of `--blend` that name the words which `auto` finds.
fn blended(plan: &ControlPlan, source: &Prompt, target: &Prompt) -> Value {
    let pairs = plan.blended(source, target);
    let values = pairs.iter().map(|(from, to)| {
        let value = format!("{from}:{to}");
        let same = Blend::Words(vec![(from.clone(), to.clone())]);
        let is_read = values::blend(&value).is_ok_and(|read| read == same);
        let is_found = source.find(from).is_ok() && target.find(to).is_ok();
        (is_read && is_found).then_some(value)
    });
    match values.collect::<Option<Vec<_>>>() {
        Some(values) if !values.is_empty() => json!(values),
        _ => json!(["auto"]),
    }
}
