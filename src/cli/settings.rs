//! The settings in a PNG: a JSON object whose keys are the command's flags with
//! underscores. `icd edit --from` reads it back.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use icd::{io::read_file, picture::note};
use serde_json::{Map, Value, json};

/// Flags that affect only where and how the picture is computed or written.
const ASIDE: &[&str] = &[
    "output",
    "comparison",
    "attention",
    "attention_maps",
    "cache",
    "dry_run",
    "json",
    "quiet",
    "verbose",
    "dump",
    "save_latents",
    "device",
    "dtype",
    "vae_tiling",
    "low_memory",
    "residency",
    "threads",
    "yes",
    "force",
    "from",
    "no_metadata",
    "help",
    "version",
];

/// Keys that state what wrote the settings.
const STATED: [&str; 2] = ["verb", "version"];

/// Keys of older files and their current names.
const RENAMED: [(&str, &str); 2] = [
    ("forward_path", "forward_timesteps"),
    ("reverse_path", "reverse_timesteps"),
];

/// Flags that are mutually exclusive: those of the input and of the result's size.
const EXCLUSIVE: [[&str; 2]; 2] = [["image", "latents"], ["model_size", "restore_size"]];

/// The settings of one result.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(Map<String, Value>);

impl Settings {
    /// The settings from the parsed arguments of a command.
    pub(crate) fn of(verb: &str, command: &Command, matches: &ArgMatches) -> Self {
        let mut settings = Map::new();
        settings.insert("verb".into(), verb.into());
        settings.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            if !ASIDE.contains(&id)
                && let Some(value) = value(arg, matches)
            {
                settings.insert(id.into(), value);
            }
        }
        Self(settings)
    }

    /// The settings with one value replaced.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Reads the settings embedded in a PNG.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let bytes = read_file(file).with_context(|| file.display().to_string())?;
        let note = note::note(&bytes).with_context(|| {
            format!(
                "{}: no icd settings found: it was not written by icd, was written with \
                 --no-metadata, or was saved again by another program",
                file.display()
            )
        })?;
        match serde_json::from_str(&note) {
            Ok(Value::Object(mut settings)) => {
                for (former, key) in RENAMED {
                    if let Some(value) = settings.remove(former) {
                        settings.insert(key.into(), value);
                    }
                }
                Ok(Self(settings))
            }
            _ => bail!("{}: its settings are not a JSON object", file.display()),
        }
    }

    /// As text, on one line.
    pub(crate) fn text(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// As a JSON object.
    pub(crate) fn facts(self) -> Map<String, Value> {
        self.0
    }

    /// Arguments of `command` that reproduce the settings, except those given explicitly.
    ///
    /// The file is a stranger's: only the command's own flags are read, with values of
    /// their type, and none that names a file to write.
    pub(crate) fn arguments(&self, command: &Command, typed: &ArgMatches) -> Result<Vec<OsString>> {
        let verb = command.get_name();
        if self.0.get("verb").and_then(Value::as_str) != Some(verb) {
            bail!("its settings are not those of `icd {verb}`");
        }
        let mut arguments = Vec::new();
        for (key, value) in &self.0 {
            if STATED.contains(&key.as_str()) || ASIDE.contains(&key.as_str()) {
                continue;
            }
            let known = command
                .get_arguments()
                .find(|arg| arg.get_id() == key.as_str());
            let flag = known.and_then(|arg| Some((arg.get_action(), arg.get_long()?)));
            let Some((action, flag)) = flag else {
                bail!("its setting {key:?} is not known to this version of icd");
            };
            if !is_replaced(key, typed) {
                let values = values(action, value);
                let values = values.with_context(|| format!("its setting {key:?}"))?;
                arguments.extend(values.into_iter().map(|value| match value {
                    Some(text) => format!("--{flag}={text}").into(),
                    None => format!("--{flag}").into(),
                }));
            }
        }
        Ok(arguments)
    }
}

/// Whether a flag, or one that excludes it, was given explicitly.
fn is_replaced(id: &str, typed: &ArgMatches) -> bool {
    let is_typed = |id: &str| {
        typed.try_contains_id(id).unwrap_or(false)
            && typed.value_source(id) == Some(ValueSource::CommandLine)
    };
    let excludes = |ids: &[&str; 2]| ids.contains(&id) && ids.iter().any(|id| is_typed(id));
    is_typed(id) || EXCLUSIVE.iter().any(excludes)
}

/// The values of a flag in the settings, `None` for one without a value.
fn values(action: &ArgAction, value: &Value) -> Result<Vec<Option<String>>> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => bail!("a text or a number is expected"),
    };
    match (action, value) {
        (ArgAction::SetTrue, Value::Bool(true)) => Ok(vec![None]),
        (ArgAction::SetTrue, Value::Bool(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => bail!("true or false is expected"),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(text).collect(),
        (_, value) => Ok(vec![text(value)?]),
    }
}

/// The value of a flag, given or default.
fn value(arg: &Arg, matches: &ArgMatches) -> Option<Value> {
    let id = arg.get_id().as_str();
    let values = matches.try_get_raw(id).ok().flatten()?;
    let mut texts = values.map(|value| json!(value.to_string_lossy()));
    match arg.get_action() {
        ArgAction::Set => texts.next(),
        ArgAction::SetTrue => matches.get_flag(id).then_some(Value::Bool(true)),
        _ => Some(texts.collect()),
    }
}

/// The explicit arguments, then those settings of the `--from` file that were not
/// given explicitly.
pub(crate) fn completed(
    typed: Vec<OsString>,
    command: &Command,
    matches: &ArgMatches,
) -> Result<Vec<OsString>> {
    let Some(file) = matches.try_get_one::<PathBuf>("from").ok().flatten() else {
        return Ok(typed);
    };
    let more = Settings::read(file)?
        .arguments(command, matches)
        .with_context(|| file.display().to_string())?;
    let mut typed = without_from(typed);
    typed.extend(more);
    Ok(typed)
}

/// The arguments without `--from FILE`.
fn without_from(typed: Vec<OsString>) -> Vec<OsString> {
    let mut rest = Vec::with_capacity(typed.len());
    let mut typed = typed.into_iter();
    while let Some(argument) = typed.next() {
        if argument == OsStr::new("--from") {
            typed.next();
        } else if !argument.to_string_lossy().starts_with("--from=") {
            rest.push(argument);
        }
    }
    rest
}
