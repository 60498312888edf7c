//! Settings as they tell results apart.

use icd::batch::Record;
use serde_json::{Map, Value};

use crate::cli::settings::{STATED, Settings};

/// The version of the program: one that was made by another is finished, too.
const VERSION: &str = "version";

/// Settings of how an edit is finished after its walk, and of its targets.
const AFTER_WALK: [&str; 4] = ["tgt_prompt", "keep_pixels", "model_size", "restore_size"];

impl Settings {
    /// A hash of the settings, whatever version states them.
    pub(crate) fn hash(&self) -> String {
        hash(&self.facts_without(&[VERSION]))
    }

    /// What edits of one inversion must have in common to be walked together.
    pub(crate) fn of_walk(&self) -> String {
        let facts = self.facts_without(&[&STATED[..], &AFTER_WALK].concat());
        Value::Object(facts).to_string()
    }

    /// What a finished result states of itself. The seed of a random one may be any.
    pub(crate) fn fingerprint(&self, is_random: bool) -> Fingerprint {
        let seed: &[&str] = if is_random { &["seed"] } else { &[] };
        Fingerprint(hash(&self.facts_without(&[&[VERSION], seed].concat())))
    }

    fn facts_without(&self, keys: &[&str]) -> Map<String, Value> {
        let mut facts = self.clone().facts();
        facts.retain(|key, _| !keys.contains(&key.as_str()));
        facts
    }
}

/// A hash of the settings that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Numbers are written and read once, as those of a file are.
fn hash(facts: &Map<String, Value>) -> String {
    let text = Value::Object(facts.clone()).to_string();
    let read: Value = serde_json::from_str(&text).unwrap_or_default();
    Record::digest(read.to_string().as_bytes())
}
