//! What an edit would do, told before any weight is loaded.

use std::fmt::Display;

use anyhow::Result;
use icd::{
    edit::{Edit, Mode},
    guidance::Guidance,
    model::Model,
    prompt::{Prompt, Word},
    schedule::Path,
};
use serde_json::{Map, Value, json};

use super::{console::tell, frame::Frame};

/// Tells tokens, words, walks and memory, as lines or as a JSON object.
pub(super) fn tell_edit(
    model: &Model,
    edit: &Edit,
    prompts: &[Prompt],
    (frame, rows): (&Frame, usize),
    as_json: bool,
) -> Result<()> {
    let facts = facts(model, edit, prompts, (frame, rows))?;
    if as_json {
        let facts: Map<String, Value> = facts.into_iter().map(|(k, v)| (k.into(), v)).collect();
        return tell(&Value::Object(facts).to_string());
    }
    facts.iter().try_for_each(|(name, fact)| match fact {
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            tell(&format!("{name}:"))?;
            let mut lines = lines.iter().filter_map(Value::as_str);
            lines.try_for_each(|line| tell(&format!("  {line}")))
        }
        Value::String(text) => tell(&format!("{name}: {text}")),
        other => tell(&format!("{name}: {other}")),
    })
}

fn facts(
    model: &Model,
    edit: &Edit,
    prompts: &[Prompt],
    (frame, rows): (&Frame, usize),
) -> Result<Vec<(&'static str, Value)>> {
    let (forward, reverse) = (model.forward_path()?, model.reverse_path()?);
    let latent = frame.latent;
    let mut facts = vec![
        ("model", json!(model.identity()?)),
        ("latent", json!(latent.to_string())),
        ("source", tokens(model, &prompts[0])?),
    ];
    for target in &prompts[1..] {
        facts.push(("target", tokens(model, target)?));
        facts.extend(control(edit, &prompts[0], target));
    }
    let evaluations = match frame.is_photo() {
        true => format!(
            "{} of 1 row, {} of {rows}",
            forward.jumps(),
            reverse.jumps()
        ),
        false => format!("{} of {rows} rows", reverse.jumps()),
    };
    facts.extend([
        ("forward path", json!(forward.to_string())),
        ("reverse path", json!(reverse.to_string())),
        ("guidance", json!(along(&reverse, edit.guidance))),
        ("network evaluations", json!(evaluations)),
        ("weights in memory", json!(memory(model)?)),
    ]);
    Ok(facts)
}

/// The words of a prompt with their tokens, and what did not fit.
fn tokens(model: &Model, prompt: &Prompt) -> Result<Value> {
    let word = |word: &Word| {
        let ids: Vec<_> = word.tokens.clone().map(|i| prompt.ids()[i]).collect();
        match ids.is_empty() {
            true => format!("{} (beyond the context: not read)", word.text),
            false => format!("{} {ids:?}", word.text),
        }
    };
    let told = format!(
        "{} ({} of {} tokens)",
        prompt.text(),
        prompt.length(),
        model.tokenizers()?.context()
    );
    let words = prompt.words().iter().map(word);
    Ok([told].into_iter().chain(words).collect())
}

/// How a target's attention follows the source's.
fn control(edit: &Edit, source: &Prompt, target: &Prompt) -> Vec<(&'static str, Value)> {
    let plan = &edit.control;
    let mode = match plan.mode_for(source, target) {
        Mode::Replace => "replace",
        Mode::Refine => "refine",
        Mode::Auto | Mode::None => "none",
    };
    let followed = plan.followed(source, target).into_iter();
    let followed = followed.map(|(word, from)| match from {
        Some(from) => format!("{word} follows {from}"),
        None => format!("{word} looks for itself"),
    });
    let amplified = plan.amplified(source, target).into_iter();
    let amplified = amplified.map(|(word, factor)| format!("{word} by {factor}"));
    let blended = plan.blended(source, target).into_iter();
    let blended = blended.map(|(from, to)| format!("{from}:{to}"));
    [
        ("control", json!(mode)),
        ("words", followed.collect()),
        ("amplified", json!(listed(amplified))),
        ("blended", json!(listed(blended))),
    ]
    .into()
}

/// The guidance at each step.
fn along(path: &Path, guidance: Guidance) -> String {
    let segments = path.segments();
    listed(segments.map(|segment| format!("{} at {}", guidance.at(segment.from), segment.from.0)))
}

fn memory(model: &Model) -> Result<String> {
    let bytes = model.storage().dtype.size_in_bytes();
    let parts = model.measures()?.into_iter();
    let parts = parts.map(|(name, values)| {
        let bytes = if name == "autoencoder" { 4 } else { bytes }; // always f32
        format!(
            "{name} {:.1} MiB",
            (values * bytes) as f64 / f64::from(1 << 20)
        )
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
