//! What to try next, in flags.

use icd::pipeline::Hint;
use serde_json::{Value, json};

use super::lines::foreign;
use crate::cli::typed::quoted;

/// A hint as a line.
pub(crate) fn line(hint: &Hint) -> String {
    let (flag, value) = flag(hint);
    let value = quoted(&foreign(&value));
    let reason = match hint {
        Hint::Unseen { word, .. } => format!("no place looked at {:?} much", foreign(word)),
        Hint::Astray {
            source,
            target,
            outside,
        } => format!(
            "{:.0}% of the change lies outside of {:?} and {:?}",
            outside * 100.0,
            foreign(source),
            foreign(target)
        ),
    };
    format!("hint: {reason}: if the edit failed, try --{flag} {value}")
}

/// A hint as a JSON object: a flag and its value.
pub(crate) fn fact(hint: &Hint) -> Value {
    let (flag, value) = flag(hint);
    json!({ "flag": flag, "value": value })
}

fn flag(hint: &Hint) -> (&'static str, String) {
    match hint {
        Hint::Unseen { word, factor } => ("amplify", format!("{word}={factor}")),
        Hint::Astray { source, target, .. } => ("blend", format!("{source}:{target}")),
    }
}
