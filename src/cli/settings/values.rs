//! Values of flags in settings.

use std::{any::TypeId, ffi::OsStr};

use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use icd::{
    control::{BlendThreshold, StepRange},
    guidance::Tau,
    picture::Size,
    schedule::DdimSteps,
};
use serde_json::{Value, json};

use crate::cli::args::values::Seed;

/// The values of a flag in the settings, `None` for one without a value.
pub(crate) fn values(action: &ArgAction, value: &Value) -> Result<Vec<Option<String>>> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => bail!("a text or a number is expected"),
    };
    match (action, value) {
        (ArgAction::SetTrue, Value::Bool(true)) => Ok(vec![None]),
        (ArgAction::SetTrue, Value::Bool(false)) => Ok(Vec::new()),
        // As cells of CSV say it.
        (ArgAction::SetTrue, Value::String(text)) if text == "true" => Ok(vec![None]),
        (ArgAction::SetTrue, Value::String(text)) if text == "false" => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => bail!("true or false is expected"),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(text).collect(),
        (_, value) => Ok(vec![text(value)?]),
    }
}

/// The value of a flag, given or default.
pub(crate) fn value(arg: &Arg, matches: &ArgMatches) -> Option<Value> {
    let id = arg.get_id().as_str();
    let values = matches.try_get_raw(id).ok().flatten()?;
    let typed = |text: &OsStr| match is_numeric(arg) {
        true => number(&text.to_string_lossy()),
        false => json!(text.to_string_lossy()),
    };
    let mut values = values.map(typed);
    match arg.get_action() {
        ArgAction::Set => values.next(),
        ArgAction::SetTrue => matches.get_flag(id).then_some(Value::Bool(true)),
        _ => Some(values.collect()),
    }
}

/// Whether the values of a flag are numbers, or can be.
fn is_numeric(arg: &Arg) -> bool {
    let parsed = arg.get_value_parser().type_id();
    let numeric = [
        TypeId::of::<u32>(),
        TypeId::of::<f64>(),
        TypeId::of::<Seed>(),
        TypeId::of::<Size>(),
        TypeId::of::<Tau>(),
        TypeId::of::<BlendThreshold>(),
        TypeId::of::<DdimSteps>(),
        TypeId::of::<StepRange>(),
        TypeId::of::<(Option<String>, StepRange)>(),
    ];
    numeric.iter().any(|numeric| parsed == *numeric)
}

/// A text as a number, if it is one.
pub(crate) fn number(text: &str) -> Value {
    match (text.parse::<u64>(), text.parse::<f64>()) {
        (Ok(number), _) => json!(number),
        (_, Ok(number)) if number.is_finite() => json!(number),
        _ => json!(text),
    }
}
