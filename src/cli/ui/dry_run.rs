//! What an edit or a generation would do, without loading weights.

use std::fmt::Display;

use anyhow::Result;
use clap::{ValueEnum, builder::PossibleValue};
use icd::{
    guidance::Guidance,
    model::Model,
    picture::Size,
    pipeline::{Cost, Edit, Method, Pipeline, Workload},
    prompt::{Prompt, Word},
    schedule::Timesteps,
};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::{
    console::count,
    lines::{print_fact, print_line},
    speed,
};
use crate::cli::settings::number;

/// The work of a command.
pub(crate) struct Work {
    load: Workload,
    cost: Cost,
    /// How long it takes in seconds, roughly.
    seconds: f64,
    /// The size of the resulting pictures.
    result: Size,
}

impl Work {
    pub(crate) fn of(pipeline: &Pipeline, load: Workload, result: Size) -> Result<Self> {
        let cost = pipeline.cost(&load)?;
        let rate = speed::flops_per_second(pipeline.model().placement())?;
        Ok(Self {
            load,
            cost,
            seconds: cost.flops / rate,
            result,
        })
    }
}

/// Prints tokens, words, timesteps and memory of an edit, as lines or as a JSON object.
/// The prompts are its source's and its targets'.
pub(crate) fn print_edit(
    model: &Model,
    edit: &Edit,
    prompts: &[Prompt],
    work: &Work,
    as_json: bool,
) -> Result<()> {
    let (source, targets) = (&prompts[0], &prompts[1..]);
    let target = |target: &Prompt| -> Result<Facts> {
        let tokens = Fact::of("target", tokens(model, target)?);
        let mut facts = vec![tokens];
        facts.extend(control(edit, source, target)?);
        Ok(facts)
    };
    let forward = edit.method.forward_timesteps(model)?;
    let mut first = first(model, work)?;
    first.push(Fact::of("source", tokens(model, source)?));
    let targets: Vec<_> = targets.iter().map(target).collect::<Result<_>>()?;
    let mut last = vec![timesteps("forward", &forward)];
    last.extend(facts(model, (&edit.method, edit.guidance), work)?);
    if !as_json {
        return print([first, targets.concat(), last].concat());
    }
    let mut facts = [first, last].concat();
    // One target is told at the top level, too.
    if let [target] = &targets[..] {
        facts.extend(target.clone());
    }
    let mut json = object(facts);
    json["targets"] = targets.into_iter().map(object).collect();
    print_line(&json.to_string())
}

/// Prints the axes and cells of a sheet, timesteps and memory, as lines or as a JSON object.
/// `told` are the axes as lines, `cells` what is told of each cell in JSON.
pub(crate) fn print_sheet(
    (model, method): (&Model, &Method),
    (told, cells): (&[String], Value),
    work: &Work,
    as_json: bool,
) -> Result<()> {
    let mut all = first(model, work)?;
    let count = cells.as_array().map_or(0, Vec::len);
    all.push(Fact::of("sweep", told));
    all.push(Fact::of("cells", count).with("cells", cells));
    all.push(timesteps("forward", &method.forward_timesteps(model)?));
    all.push(timesteps("reverse", &method.reverse_timesteps(model)?));
    all.extend(taken(model, work)?);
    match as_json {
        true => print_line(&object(all).to_string()),
        false => print(all),
    }
}

/// Prints tokens, timesteps and memory of a generation, as lines or as a JSON object.
pub(crate) fn print_generation(
    model: &Model,
    prompt: &Prompt,
    guided: (&Method, Guidance),
    work: &Work,
    as_json: bool,
) -> Result<()> {
    let mut all = first(model, work)?;
    all.push(Fact::of("prompt", tokens(model, prompt)?));
    all.extend(facts(model, guided, work)?);
    match as_json {
        true => print_line(&object(all).to_string()),
        false => print(all),
    }
}

/// A fact as it is told, and in JSON also with a type, under keys of their own.
#[derive(Clone)]
struct Fact {
    name: &'static str,
    told: Value,
    typed: Vec<(&'static str, Value)>,
}

impl Fact {
    /// A fact whose told value has a type.
    fn of(name: &'static str, told: impl Into<Value>) -> Self {
        Self {
            name,
            told: told.into(),
            typed: Vec::new(),
        }
    }

    /// The fact with a typed value.
    fn with(mut self, key: &'static str, value: Value) -> Self {
        self.typed.push((key, value));
        self
    }
}

/// Facts in the order in which they are told.
type Facts = Vec<Fact>;

/// What is told before the prompts.
fn first(model: &Model, work: &Work) -> Result<Facts> {
    let identity = model.identity()?;
    let model = Fact::of("model", &identity[..]).with("model_identity", json!(identity));
    let size = |size: Size| json!([size.width, size.height]);
    let latent = Fact::of("latent", work.load.latent.to_string());
    let result = Fact::of("result", work.result.to_string());
    Ok(vec![
        model,
        latent.with("latent_size", size(work.load.latent)),
        result.with("result_size", size(work.result)),
    ])
}

/// What is told after the prompts.
fn facts(model: &Model, (method, guidance): (&Method, Guidance), work: &Work) -> Result<Facts> {
    let reverse = method.reverse_timesteps(model)?;
    let strengths: Vec<_> = reverse.jumps().map(|jump| guidance.at(jump.from)).collect();
    let told = match method.steps() {
        None => Vec::new(),
        Some(_) => {
            vec![Fact::of("method", method.told()).with("method_name", json!(method.name()))]
        }
    };
    let mut facts = [
        told,
        vec![
            timesteps("reverse", &reverse),
            Fact::of("guidance", along(&reverse, guidance))
                .with("guidance_scale", json!(guidance.strength()))
                .with("guidance_steps", json!(strengths))
                .with("tau", number(&guidance.tau().to_string())),
        ],
    ]
    .concat();
    facts.extend(taken(model, work)?);
    Ok(facts)
}

/// What the work takes.
fn taken(model: &Model, work: &Work) -> Result<Facts> {
    let evaluations = Fact::of("network evaluations", count(&work.load.evaluations));
    Ok(vec![
        evaluations.with("evaluations", json!(work.load.evaluations)),
        weights(model)?,
        Fact::of("products", model.placement().arithmetic().name()),
        Fact::of(
            "peak memory",
            format!("about {}", HumanBytes(work.cost.peak_bytes)),
        )
        .with("peak_memory_bytes", json!(work.cost.peak_bytes)),
        Fact::of("time", format!("about {}", rough(work.seconds)))
            .with("seconds", json!(work.seconds)),
    ])
}

/// A duration to one or two digits.
pub(crate) fn rough(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => "0.1 s".into(),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// Prints facts as lines.
fn print(facts: Facts) -> Result<()> {
    let mut facts = facts.into_iter();
    facts.try_for_each(|fact| match fact.told {
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            print_line(&format!("{}:", fact.name))?;
            let mut lines = lines.iter().filter_map(Value::as_str);
            lines.try_for_each(|line| print_line(&format!("  {line}")))
        }
        other => print_fact(fact.name, &other),
    })
}

/// Facts as a JSON object with plain keys.
fn object(facts: Facts) -> Value {
    let typed = facts.iter().flat_map(|fact| fact.typed.clone());
    let typed: Vec<_> = typed.map(|(key, value)| (key.to_owned(), value)).collect();
    let told = facts.into_iter();
    let told = told.map(|fact| (fact.name.replace(' ', "_"), fact.told));
    told.chain(typed).collect()
}

/// The timesteps of a direction.
fn timesteps(direction: &'static str, timesteps: &Timesteps) -> Fact {
    let list: Vec<_> = timesteps.as_slice().iter().map(|t| t.0).collect();
    let (name, key) = match direction {
        "forward" => ("forward timesteps", "forward_path"),
        _ => ("reverse timesteps", "reverse_path"),
    };
    Fact::of(name, timesteps.to_string()).with(key, json!(list))
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
    let followed = plan.followed(source, target);
    let told = followed.iter().map(|(word, from)| match from {
        Some(from) => format!("{word} follows {from}"),
        None => format!("{word} has attention of its own"),
    });
    let words = Fact::of("words", told.collect::<Vec<_>>());
    let amplified = plan.amplified(source, target);
    let factors: Value = (amplified.iter())
        .map(|(found, factor)| (found.word.clone(), json!(factor)))
        .collect();
    let told = amplified.iter();
    let told = listed(told.map(|(found, factor)| format!("{} by {factor}", found.word)));
    let blended = plan.blended(source, target)?.into_iter();
    let blended: Vec<_> = blended.map(|(from, to)| (from.word, to.word)).collect();
    let pairs = match plan.blends_by_difference() {
        true => "what changes most".to_owned(),
        false => listed(blended.iter().map(pair_of_words)),
    };
    let threshold = plan.blend_threshold().map(|it| number(&it.to_string()));
    Ok(vec![
        Fact::of("control", mode),
        words.with("followed_words", json!(followed)),
        Fact::of("amplified", told).with("amplified_words", factors),
        Fact::of("blended", pairs)
            .with("blended_words", json!(blended))
            .with("blend_threshold", json!(threshold)),
    ])
}

/// A source word and a target word, or the one that has no counterpart.
fn pair_of_words((from, to): &(String, String)) -> String {
    match [from, to] {
        [word, none] | [none, word] if none.is_empty() => word.clone(),
        _ => format!("{from}:{to}"),
    }
}

/// Most steps of which each is told.
const FEW: usize = 12;

/// The guidance at each step; of many steps where it changes.
fn along(path: &Timesteps, guidance: Guidance) -> String {
    let mut told: Vec<_> = path
        .jumps()
        .map(|jump| (guidance.at(jump.from), jump.from.0))
        .collect();
    let word = match told.len() > FEW {
        true => {
            told.dedup_by_key(|(strength, _)| *strength);
            "from"
        }
        false => "at",
    };
    listed(
        told.iter()
            .map(|(strength, at)| format!("{strength} {word} {at}")),
    )
}

/// The memory of each network's weights.
fn weights(model: &Model) -> Result<Fact> {
    let parts = model.weight_bytes()?.into_iter();
    let parts = parts.map(|(network, bytes)| (network.to_string(), bytes as u64));
    let parts: Vec<_> = parts.collect();
    let told = parts.iter();
    let told = listed(told.map(|(name, bytes)| format!("{name} {}", HumanBytes(*bytes))));
    let bytes = parts.into_iter();
    let bytes: Value = bytes
        .map(|(name, bytes)| (name.to_lowercase().replace(' ', "_"), json!(bytes)))
        .collect();
    Ok(Fact::of("weights in memory", told).with("weights_bytes", bytes))
}

fn listed<T: Display>(values: impl Iterator<Item = T>) -> String {
    let values: Vec<_> = values.map(|value| value.to_string()).collect();
    match values.is_empty() {
        true => "none".into(),
        false => values.join(", "),
    }
}
