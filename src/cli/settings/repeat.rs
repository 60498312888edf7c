//! Settings as the arguments of the command that repeats them (`--from`).

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Command, parser::ValueSource};

use super::{
    ASIDE, EXCLUSIVE, INPUT_HASH, InputHash, MODEL_IDENTITY, Origin, READ, STATED, SWEEP, Settings,
    Value, values::values,
};
use crate::cli::{
    args::{output, sweep::Axis},
    storage,
};

/// Flags of the input, whose content has to be the same.
const INPUT: [&str; 2] = ["image", "latents"];

/// Flags that choose a model.
const MODEL: &[&str] = &[
    "model",
    "variant",
    "unet",
    "checkpoint",
    "reverse_adapter",
    "reverse_timesteps",
];

/// Settings that the program derives from others where they are left to it: with those
/// changed they are derived anew.
const DERIVED: [(&str, &[&[&str]]); 11] = [
    ("amplify", &[PROMPTS, &["control"]]),
    ("blend", &[PROMPTS, MODEL, METHOD]),
    ("blend_threshold", &[PROMPTS, MODEL, METHOD, &["blend"]]),
    ("control", &[PROMPTS, MODEL]),
    ("early_prompt", &[MODEL, &["control"]]),
    ("guidance", &[MODEL, METHOD]),
    ("masactrl_mask", &[PROMPTS, &["control"]]),
    ("masactrl_start", &[MODEL, METHOD, &["control"]]),
    ("method", &[MODEL]),
    ("steps", &[MODEL, METHOD]),
    ("tau", &[MODEL, METHOD]),
];

/// Flags that choose a method.
const METHOD: &[&str] = &["method", "steps", "negative_prompt"];
/// Flags of prompts.
const PROMPTS: &[&str] = &["src_prompt", "tgt_prompt"];

impl Settings {
    /// Arguments of `command` that reproduce the settings, except those given explicitly.
    ///
    /// The file is a stranger's: only the command's own flags are read, with values of
    /// their type, and none that names a file to write. Files to read are looked for in
    /// `folder`, too.
    fn arguments(
        &self,
        command: &Command,
        typed: &ArgMatches,
        folder: &Path,
    ) -> Result<(Vec<OsString>, Origin)> {
        let verb = command.get_name();
        match self.values.get("verb").and_then(Value::as_str) {
            Some(made_by) if made_by == verb => {}
            Some(made_by @ ("edit" | "generate")) => {
                bail!("it was made by `icd {made_by}`: repeat it by that command");
            }
            _ => bail!("its settings are not those of `icd {verb}`"),
        }
        let (mut arguments, defaults) = (Vec::new(), self.defaults());
        let mut origin = Origin {
            defaults: BTreeSet::new(),
            model: self.model(typed),
            input: self.input(typed),
        };
        for (key, value) in &self.values {
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
            let is_default = defaults.contains(&key.as_str());
            let is_asked_anew = is_default && is_derived_anew(key, typed);
            if is_asked_anew && !is_replaced(key, typed) && were_found(key, value) {
                arguments.push(format!("--{flag}=auto").into());
            }
            if !is_replaced(key, typed) && !is_asked_anew {
                if is_default {
                    origin.defaults.insert(key.clone());
                }
                let values = values(action, value);
                let mut values = values.with_context(|| format!("its setting {key:?}"))?;
                if key == SWEEP {
                    values.retain(|axis| !is_fixed(axis.as_deref(), typed));
                }
                let hash = self.values.get(INPUT_HASH).filter(|_| key == "image");
                arguments.extend(values.into_iter().map(|value| match value {
                    Some(text) if READ.contains(&key.as_str()) => {
                        let mut argument = OsString::from(format!("--{flag}="));
                        argument.push(found(&text, folder, hash.and_then(Value::as_str)));
                        argument
                    }
                    Some(text) => format!("--{flag}={text}").into(),
                    None => format!("--{flag}").into(),
                }));
            }
        }
        Ok((arguments, origin))
    }

    /// The identity of the model, unless another one is asked for.
    fn model(&self, typed: &ArgMatches) -> Option<String> {
        let identity = self.values.get(MODEL_IDENTITY)?.as_str()?;
        let is_other = MODEL.iter().any(|flag| is_typed(flag, typed));
        (!is_other).then(|| identity.to_owned())
    }

    /// The hash of the input, unless another one is asked for.
    fn input(&self, typed: &ArgMatches) -> Option<InputHash> {
        let hash = self.values.get(INPUT_HASH)?.as_str()?;
        let is_other = INPUT.iter().any(|id| is_replaced(id, typed));
        (!is_other).then(|| InputHash(hash.to_owned()))
    }
}

/// Whether the flag of an axis was given explicitly: there is nothing to sweep then.
fn is_fixed(axis: Option<&str>, typed: &ArgMatches) -> bool {
    let axis = axis.and_then(|axis| axis.parse::<Axis>().ok());
    axis.is_some_and(|axis| is_typed(&axis.id, typed))
}

/// Whether a flag was given explicitly.
pub(crate) fn is_typed(id: &str, typed: &ArgMatches) -> bool {
    typed.try_contains_id(id).unwrap_or(false)
        && typed.value_source(id) == Some(ValueSource::CommandLine)
}

/// Whether a setting that was left to the program is derived from one that was given
/// explicitly.
fn is_derived_anew(id: &str, typed: &ArgMatches) -> bool {
    let from = DERIVED.iter().filter(|(derived, _)| *derived == id);
    let mut from = from.flat_map(|(_, from)| from.concat());
    from.any(|flag| is_typed(flag, typed))
}

/// Whether a setting has words that `auto` found, which was asked for: by default none are.
fn were_found(id: &str, value: &Value) -> bool {
    let defaults = ["difference", "none"];
    let mut words = value.as_array().into_iter().flatten();
    ["blend", "masactrl_mask"].contains(&id)
        && words.all(|word| word.as_str().is_some_and(|word| !defaults.contains(&word)))
}

/// Whether a flag, or one that excludes it, was given explicitly.
fn is_replaced(id: &str, typed: &ArgMatches) -> bool {
    let excludes = |ids: &[&str; 2]| ids.contains(&id) && ids.iter().any(|id| is_typed(id, typed));
    is_typed(id, typed) || EXCLUSIVE.iter().any(excludes)
}

/// A file of the settings: as it is named, or in this folder by its whole path or its name
/// alone; the first whose content has the hash, if one has.
fn found(name: &str, folder: &Path, hash: Option<&str>) -> PathBuf {
    let named = PathBuf::from(name);
    let alone = named.file_name().map(|alone| folder.join(alone));
    let places = [Some(named.clone()), Some(folder.join(&named)), alone];
    let is_file = |file: &PathBuf| file.is_file() && !output::is_stdout(&named);
    let files: Vec<_> = places.into_iter().flatten().filter(is_file).collect();
    let is_same = |file: &&PathBuf| {
        storage::read(file).is_ok_and(|bytes| Some(InputHash::of(&bytes).0.as_str()) == hash)
    };
    let same = files.iter().find(|file| hash.is_some() && is_same(file));
    same.or(files.first()).cloned().unwrap_or(named)
}

/// The explicit arguments, then those settings of the `--from` file that were not
/// given explicitly; and the hash of the input, if that is the file's.
pub(crate) fn completed(
    typed: Vec<OsString>,
    command: &Command,
    matches: &ArgMatches,
) -> Result<(Vec<OsString>, Origin)> {
    let Some(file) = matches.try_get_one::<PathBuf>("from").ok().flatten() else {
        return Ok((typed, Origin::default()));
    };
    let former = Settings::read(file)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let (more, origin) = former
        .arguments(command, matches, folder)
        .with_context(|| file.display().to_string())?;
    let mut typed = without_from(typed);
    typed.extend(more);
    Ok((typed, origin))
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
