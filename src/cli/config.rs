//! The user's configuration file: defaults of flags.
//!
//! Every flag with a variable `ICD_KEY` has a key of this name. The command line takes
//! precedence over the environment, this over the file, and the file over icd's defaults.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::{Arg, ArgMatches, Command};
use icd::{Error, io::Source};
use toml::{Table, Value};

/// The id of the flag that names another file, and what it names if there is none to read.
const FLAG: &str = "config_file";
const NONE: &str = "none";

/// The variable in place of the flag: read here, since clap would list it in every usage.
const VARIABLE: &str = "ICD_CONFIG";

/// The keys.
const KEYS: [&str; 6] = ["model", "device", "dtype", "threads", "cache", "yes"];

/// Keys whose values are or may be paths: `~/` is the home folder, as in a shell.
const PATHS: [&str; 2] = ["model", "cache"];

/// Defaults of flags, by key.
#[derive(Debug, Default)]
pub(crate) struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads the file that `--config` or `ICD_CONFIG` names, else the usual one if it exists.
    pub(crate) fn of(command: &Command, matches: &ArgMatches) -> Result<Self> {
        let flag = matches.get_one::<OsString>(FLAG).cloned();
        let variable = || env::var_os(VARIABLE).filter(|name| !name.is_empty());
        let file = match flag.or_else(variable) {
            Some(name) if name == NONE => None,
            Some(name) => Some(PathBuf::from(name)),
            None => usual_file().filter(|file| file.exists()),
        };
        match file {
            Some(file) => Ok(Self::read(&file, command)?),
            None => Ok(Self::default()),
        }
    }

    /// Reads a file; its values are checked by the flags of `command`.
    fn read(file: &Path, command: &Command) -> icd::Result<Self> {
        let text = Source::from(file).text()?;
        let table: Table = toml::from_str(&text).map_err(|error| Error::config(file, error))?;
        let one = |(key, value): (String, Value)| {
            let text = text_of(&key, &value).and_then(|text| {
                checked(&key, &text, command)?;
                Ok(text)
            });
            let text = text.map_err(|reason| Error::config(file, format!("{key}: {reason}")))?;
            Ok((key, text))
        };
        table
            .into_iter()
            .map(one)
            .collect::<icd::Result<_>>()
            .map(Self)
    }

    /// The command and its subcommands with these defaults.
    pub(crate) fn applied(&self, command: Command) -> Command {
        let command = command.mut_args(|arg| match self.value(&arg) {
            // clap's texts live as long as the program, which parses once.
            Some(value) => arg.default_value(&*value.clone().leak()),
            None => arg,
        });
        command.mut_subcommands(|command| self.applied(command))
    }

    fn value(&self, arg: &Arg) -> Option<&String> {
        self.0.get(key_of(arg)?)
    }
}

/// The usual file: `~/.config/icd/config.toml` on Linux.
pub(crate) fn usual_file() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("icd/config.toml"))
}

/// The key of a flag: the name of its variable in lower case, without `ICD_`.
fn key_of(arg: &Arg) -> Option<&'static str> {
    let variable = arg.get_env()?.to_str()?;
    let is_same = |key: &&str| variable.strip_prefix("ICD_") == Some(&key.to_uppercase());
    KEYS.into_iter().find(is_same)
}

/// A value as it would be typed.
fn text_of(key: &str, value: &Value) -> Result<String, String> {
    let expected = match (key, value) {
        ("yes", Value::Boolean(yes)) => return Ok(yes.to_string()),
        ("yes", _) => "true or false",
        ("threads", Value::Integer(count)) => return Ok(count.to_string()),
        ("threads", _) => "a number",
        (key, Value::String(text)) if KEYS.contains(&key) => return Ok(in_home(key, text)),
        (key, _) if KEYS.contains(&key) => "a text in quotes",
        _ => return Err(format!("there is no such key: write {}", KEYS.join(", "))),
    };
    Err(format!("{expected} is expected"))
}

/// A path with `~/` as the home folder.
fn in_home(key: &str, text: &str) -> String {
    let rest = text.strip_prefix("~/").filter(|_| PATHS.contains(&key));
    match rest.and_then(|rest| Some(dirs::home_dir()?.join(rest))) {
        Some(path) => path.to_string_lossy().into_owned(),
        None => text.to_owned(),
    }
}

/// Fails if a flag of this key does not take the value.
fn checked(key: &str, text: &str, command: &Command) -> Result<(), String> {
    let commands = command.get_subcommands();
    let mut args = commands.flat_map(Command::get_arguments);
    let arg = args.find(|arg| key_of(arg) == Some(key) && arg.get_action().takes_values());
    let Some(arg) = arg else {
        return Ok(()); // a flag without a value
    };
    let alone = Arg::new("value")
        .long("value")
        .value_parser(arg.get_value_parser().clone());
    let parsed = Command::new("").no_binary_name(true).arg(alone);
    match parsed.try_get_matches_from([format!("--value={text}")]) {
        Ok(_) => Ok(()),
        Err(error) => Err(reason(&error.to_string(), text)),
    }
}

/// What clap says of a value, without its label and its hints.
fn reason(report: &str, text: &str) -> String {
    let lines: Vec<_> = report.lines().take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    let detail = line
        .split_once("'--value <value>'")
        .map_or(&*line, |(_, detail)| detail);
    let detail = detail.trim_start_matches(':').split_whitespace();
    let detail = detail.collect::<Vec<_>>().join(" ");
    match detail.contains(&format!("{text:?}")) {
        true => detail,
        false => format!("{text:?}: {detail}"),
    }
}

/// Whether a variable is set, but to nothing, which counts as not set.
pub(crate) fn is_set_to_nothing(arg: &Arg) -> bool {
    let value = arg.get_env().and_then(env::var_os);
    value.is_some_and(|value| value.is_empty())
}
