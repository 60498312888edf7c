//! The settings in a picture: a JSON object whose keys are the command's flags with
//! underscores. `icd edit --from` and `icd generate --from` read it back.

mod repeat;
mod values;

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Command};
use icd::{kernel::Arithmetic, model::Model, picture::note, pipeline::Latents};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub(crate) use repeat::{completed, is_typed};
pub(crate) use values::{number, value, values};

use super::storage;

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

    /// The settings that were left to the program.
    fn defaults(&self) -> Vec<&str> {
        let keys = self.values.get(DEFAULTS).and_then(Value::as_array);
        let keys = keys.into_iter().flatten();
        keys.filter_map(Value::as_str).collect()
    }
}

/// Whether a value leaves the choice to the program.
fn is_left(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(is_left),
        value => value == "auto",
    }
}
