//! What an edit would do, without loading weights.

use std::fmt::Display;

use anyhow::Result;
use clap::{ValueEnum, builder::PossibleValue};
use icd::{
    guidance::Guidance,
    model::Model,
    pipeline::Edit,
    prompt::{Prompt, Word},
    schedule::Timesteps,
};
use serde_json::{Value, json};

use super::console::{print_fact, print_line};
use crate::cli::canvas::Frame;

/// Prints tokens, words, timesteps and memory, as lines or as a JSON object.
pub(crate) fn print_edit(
    model: &Model,
    edit: &Edit,
    prompts: &[Prompt],
    (frame, rows): (&Frame, usize),
    as_json: bool,
) -> Result<()> {
    let (mut facts, targets) = facts(model, edit, prompts, (frame, rows))?;
    if as_json {
        // One target is told at the top level, too.
        if let [target] = &targets[..] {
            facts.extend(target.clone());
        }
        let mut json = object(facts);
        json["targets"] = targets.into_iter().map(object).collect();
        return print_line(&json.to_string());
    }
    let last = facts.split_off(TOLD_FIRST);
    let mut facts = facts.into_iter().chain(targets.concat()).chain(last);
    facts.try_for_each(|(name, fact)| match fact {
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            print_line(&format!("{name}:"))?;
            let mut lines = lines.iter().filter_map(Value::as_str);
            lines.try_for_each(|line| print_line(&format!("  {line}")))
        }
        other => print_fact(name, &other),
    })
}

/// Names and values, in the order in which they are told.
type Facts = Vec<(&'static str, Value)>;

/// How many of the facts are told before those of the targets.
const TOLD_FIRST: usize = 3;

/// The facts of the edit, and those of each target.
fn facts(
    model: &Model,
    edit: &Edit,
    prompts: &[Prompt],
    (frame, rows): (&Frame, usize),
) -> Result<(Facts, Vec<Facts>)> {
    let (forward, reverse) = (model.forward_timesteps()?, model.reverse_timesteps()?);
    let latent = frame.latent()?;
    let target = |target: &Prompt| -> Result<Facts> {
        let tokens = ("target", tokens(model, target)?);
        let control = control(edit, &prompts[0], target)?;
        Ok([tokens].into_iter().chain(control).collect())
    };
    let evaluations = match frame.placed().is_some() {
        true => format!(
            "{} of 1 row, {} of {rows}",
            forward.count(),
            reverse.count()
        ),
        false => format!("{} of {rows} rows", reverse.count()),
    };
    let facts = vec![
        ("model", json!(model.identity()?)),
        ("latent", json!(latent.to_string())),
        ("source", tokens(model, &prompts[0])?),
        ("forward timesteps", json!(forward.to_string())),
        ("reverse timesteps", json!(reverse.to_string())),
        ("guidance", json!(along(&reverse, edit.guidance))),
        ("network evaluations", json!(evaluations)),
        ("weights in memory", json!(memory(model)?)),
    ];
    let targets = prompts[1..].iter().map(target);
    Ok((facts, targets.collect::<Result<_>>()?))
}

/// Facts as a JSON object with plain keys.
fn object(facts: Facts) -> Value {
    let facts = facts.into_iter();
    facts
        .map(|(name, fact)| (name.replace(' ', "_"), fact))
        .collect()
}

/// The words of a prompt with their tokens, and the truncated words.
fn tokens(model: &Model, prompt: &Prompt) -> Result<Value> {
    let word = |word: &Word| {
        let ids: Vec<_> = word.tokens.clone().map(|i| prompt.ids()[i]).collect();
        match ids.is_empty() {
            true => format!("{} (beyond the context: ignored)", word.text),
            false => format!("{} {ids:?}", word.text),
        }
    };
    let summary = format!(
        "{} ({} of {} tokens)",
        prompt.text(),
        prompt.length(),
        model.tokenizers()?.context()
    );
    let words = prompt.words().iter().map(word);
    Ok([summary].into_iter().chain(words).collect())
}

/// How a target's attention follows the source's.
fn control(edit: &Edit, source: &Prompt, target: &Prompt) -> Result<Facts> {
    let plan = &edit.control;
    let mode = plan.mode_for(source, target).to_possible_value();
    let mode = mode.as_ref().map(PossibleValue::get_name);
    let followed = plan.followed(source, target).into_iter();
    let followed = followed.map(|(word, from)| match from {
        Some(from) => format!("{word} follows {from}"),
        None => format!("{word} has attention of its own"),
    });
    let amplified = plan.amplified(source, target).into_iter();
    let amplified = amplified.map(|(found, factor)| format!("{} by {factor}", found.word));
    let blended = plan.blended(source, target)?.into_iter();
    let blended = blended.map(|(from, to)| format!("{}:{}", from.word, to.word));
    Ok([
        ("control", json!(mode)),
        ("words", followed.collect()),
        ("amplified", json!(listed(amplified))),
        ("blended", json!(listed(blended))),
    ]
    .into())
}

/// The guidance at each step.
fn along(path: &Timesteps, guidance: Guidance) -> String {
    let segments = path.jumps();
    listed(segments.map(|jump| format!("{} at {}", guidance.at(jump.from), jump.from.0)))
}

fn memory(model: &Model) -> Result<String> {
    let parts = model.parameter_counts()?.into_iter();
    let parts = parts.map(|(name, values)| {
        let dtype = match name.as_str() {
            "autoencoder" => model.vae_dtype(),
            _ => model.placement().dtype,
        };
        let bytes = values * dtype.size_in_bytes();
        format!("{name} {:.1} MiB", bytes as f64 / f64::from(1 << 20))
    });
    Ok(listed(parts))
}

fn listed<T: Display>(values: impl Iterator<Item = T>) -> String {
    let values: Vec<_> = values.map(|value| value.to_string()).collect();
    match values.is_empty() {
        true => "none".into(),
        false => values.join(", "),
    }
}
