//! The settings in a picture: a JSON object whose keys are the command's flags with
//! underscores. `icd edit --from` and `icd generate --from` read it back.

use std::{
    any::TypeId,
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use icd::{
    control::StepRange,
    guidance::Tau,
    kernel::Arithmetic,
    model::Model,
    picture::{Size, note},
    pipeline::Latents,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::args::output;

use super::{
    args::{sweep::Axis, values::Seed},
    storage,
};

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
    "max_rows",
    "yes",
    "force",
    "from",
    "pick",
    "config_file",
    "no_metadata",
    "help",
    "version",
];

/// The key of the hash of the input.
const INPUT_HASH: &str = "input_sha256";

/// The key of the model's identity.
const MODEL_IDENTITY: &str = "model_identity";

/// The key of the arithmetic of products, where it is not f32.
const PRODUCTS: &str = "products";

/// The key of the list of settings that were left to the program.
const DEFAULTS: &str = "defaults";

/// The key of the axes of a sheet.
const SWEEP: &str = "sweep";

/// Keys that state what wrote the settings, from what and with what.
pub(crate) const STATED: [&str; 6] = [
    "verb",
    "version",
    INPUT_HASH,
    MODEL_IDENTITY,
    PRODUCTS,
    DEFAULTS,
];

/// Flags of files that are read, which are also looked for beside the picture.
pub(crate) const READ: [&str; 3] = ["image", "latents", "mask"];

/// Flags of the input, whose content has to be the same.
const INPUT: [&str; 2] = ["image", "latents"];

/// Keys of older files and their current names.
pub(crate) const RENAMED: [(&str, &str); 2] = [
    ("forward_path", "forward_timesteps"),
    ("reverse_path", "reverse_timesteps"),
];

/// Flags that are mutually exclusive: those of the input and of the result's size.
pub(crate) const EXCLUSIVE: [[&str; 2]; 2] = [["image", "latents"], ["model_size", "restore_size"]];

/// SHA-256 of an input: a picture's file, or the values of its latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputHash(String);

impl InputHash {
    /// Of the bytes of a file.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(format!("{:x}", Sha256::digest(bytes)))
    }

    /// Of the values of latents.
    pub(crate) fn of_latents(latents: &Latents) -> Result<Self> {
        let values: Vec<f32> = latents.inverted.latent.flatten_all()?.to_vec1()?;
        let bytes: Vec<_> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Ok(Self::of(&bytes))
    }
}

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
const DERIVED: [(&str, &[&[&str]]); 7] = [
    ("amplify", &[PROMPTS, &["control"]]),
    ("blend", &[PROMPTS]),
    ("control", &[PROMPTS, MODEL]),
    ("early_prompt", &[MODEL, &["control"]]),
    ("guidance", &[MODEL]),
    ("masactrl_start", &[MODEL, &["control"]]),
    ("tau", &[MODEL]),
];

/// Flags of prompts.
const PROMPTS: &[&str] = &["src_prompt", "tgt_prompt"];

/// The settings of one result.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    values: Map<String, Value>,
    origin: Origin,
}

/// What is known of settings that are repeated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// The settings that were left to the program.
    defaults: BTreeSet<String>,
    /// The identity of the model that made the picture, unless another one was asked for.
    model: Option<String>,
    /// The hash that the input has to have, unless another one was asked for.
    input: Option<InputHash>,
}

impl Origin {
    /// What settings that are repeated as they stand state of themselves.
    pub(crate) fn stated(values: &Map<String, Value>) -> Self {
        let stated = Settings {
            values: values.clone(),
            origin: Self::default(),
        };
        let text = |key| values.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            defaults: stated.defaults().into_iter().map(String::from).collect(),
            model: text(MODEL_IDENTITY),
            input: text(INPUT_HASH).map(InputHash),
        }
    }

    /// This one, and what it does not know from another.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            defaults: self.defaults.into_iter().chain(other.defaults).collect(),
            model: self.model.or(other.model),
            input: self.input.or(other.input),
        }
    }
}

impl Settings {
    /// The settings from the parsed arguments of a command.
    pub(crate) fn of(command: &Command, matches: &ArgMatches, origin: Origin) -> Self {
        let mut values = Map::new();
        values.insert("verb".into(), command.get_name().into());
        values.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        if let Some(hash) = &origin.input {
            values.insert(INPUT_HASH.into(), hash.0.clone().into());
        }
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            if !ASIDE.contains(&id)
                && let Some(value) = value(arg, matches)
            {
                values.insert(id.into(), value);
            }
        }
        Self { values, origin }
    }

    /// The settings with one value replaced.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.values.insert(key.into(), value.into());
        self
    }

    /// The settings without some values.
    pub(crate) fn leaving_out(mut self, keys: &[&str]) -> Self {
        for key in keys {
            self.values.remove(*key);
            self.origin.defaults.remove(*key);
        }
        self
    }

    /// The settings with the hash of their input, which is from `file`. Another one than they
    /// have from [`completed`] is an error.
    pub(crate) fn of_input(self, hash: InputHash, file: Option<&Path>) -> Result<Self> {
        let former = self.origin.input.as_ref();
        if former.is_some_and(|former| *former != hash) {
            bail!(
                "{}: this is not what was edited before, its content differs: pass the input \
                 explicitly to edit another one",
                file.unwrap_or(Path::new("-")).display()
            );
        }
        Ok(self.with(INPUT_HASH, hash.0))
    }

    /// The settings with a value that the program chose, if the choice was left to it.
    pub(crate) fn chosen(mut self, key: &str, value: impl Into<Value>) -> Self {
        if self.values.get(key).is_none_or(is_left) {
            self.values.insert(key.into(), value.into());
            self.origin.defaults.insert(key.into());
        }
        self
    }

    /// The settings of a picture that this model made.
    pub(crate) fn made_with(self, model: &Model) -> Result<Self> {
        let stated = self.with(MODEL_IDENTITY, model.identity()?);
        Ok(match model.placement().arithmetic() {
            Arithmetic::F32 => stated,
            rounded @ Arithmetic::Bf16(_) => stated.with(PRODUCTS, rounded.name()),
        })
    }

    /// The identity of the model that made the picture whose settings are repeated, if this
    /// model is another one.
    pub(crate) fn other_model(&self, model: &Model) -> Result<Option<&str>> {
        let Some(made_with) = self.origin.model.as_deref() else {
            return Ok(None);
        };
        Ok((made_with != model.identity()?).then_some(made_with))
    }

    /// Reads the settings embedded in a picture.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        Self::of_picture(&storage::read(file)?, file)
    }

    /// The settings embedded in the bytes of a picture; `file` is for messages.
    pub(crate) fn of_picture(bytes: &[u8], file: &Path) -> Result<Self> {
        let note = note::note(bytes).with_context(|| {
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
                Ok(Self {
                    values: settings,
                    origin: Origin::default(),
                })
            }
            _ => bail!(
                "{}: its icd settings are damaged: they are no JSON object",
                file.display()
            ),
        }
    }

    /// As text, on one line.
    pub(crate) fn text(&self) -> String {
        Value::Object(self.clone().facts()).to_string()
    }

    /// As a JSON object.
    pub(crate) fn facts(self) -> Map<String, Value> {
        let (mut facts, defaults) = (self.values, self.origin.defaults);
        if !defaults.is_empty() {
            facts.insert(DEFAULTS.into(), defaults.into_iter().collect());
        }
        facts
    }

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

    /// The settings that were left to the program.
    fn defaults(&self) -> Vec<&str> {
        let keys = self.values.get(DEFAULTS).and_then(Value::as_array);
        let keys = keys.into_iter().flatten();
        keys.filter_map(Value::as_str).collect()
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

/// Whether a value leaves the choice to the program.
fn is_left(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(is_left),
        value => value == "auto",
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

/// Whether a flag, or one that excludes it, was given explicitly.
fn is_replaced(id: &str, typed: &ArgMatches) -> bool {
    let excludes = |ids: &[&str; 2]| ids.contains(&id) && ids.iter().any(|id| is_typed(id, typed));
    is_typed(id, typed) || EXCLUSIVE.iter().any(excludes)
}

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
