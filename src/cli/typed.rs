//! A command line as it was typed, to be changed and run again.

use std::ffi::OsString;

use clap::{ArgMatches, Command};

use super::settings::is_typed;

/// The flags of a command that were given on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    verb: String,
    flags: Vec<Flag>,
}

#[derive(Clone, Debug)]
struct Flag {
    /// The id of its argument.
    id: String,
    /// Its name.
    long: String,
    value: Option<OsString>,
}

/// The id and the name of the flag of the configuration, which clap lists with no command.
const CONFIG: (&str, &str) = ("config_file", "config");

impl Typed {
    /// The flags of `matches` in the order of the help, each with its values in their order.
    pub(crate) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let mut flags = Vec::new();
        for arg in command.get_arguments() {
            let (id, long) = (arg.get_id().as_str(), arg.get_long());
            match long.filter(|_| is_typed(id, matches)) {
                Some(long) if arg.get_action().takes_values() => {
                    flags.extend(given(id, long, matches));
                }
                Some(long) => flags.push(Flag::new(id, long, None)),
                None => {}
            }
        }
        if is_typed(CONFIG.0, matches) {
            flags.extend(given(CONFIG.0, CONFIG.1, matches));
        }
        Self {
            verb: command.get_name().into(),
            flags,
        }
    }

    /// The same without some flags, named by their ids.
    pub(crate) fn without(mut self, ids: &[&str]) -> Self {
        self.flags.retain(|flag| !ids.contains(&&*flag.id));
        self
    }

    /// The same with one more value of a flag whose name is its id with hyphens.
    pub(crate) fn with(mut self, id: &str, value: impl Into<OsString>) -> Self {
        let long = id.replace('_', "-");
        self.flags.push(Flag::new(id, &long, Some(value.into())));
        self
    }

    /// The arguments of the program: no value is taken for a flag, whatever it is.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let program = ["icd", &self.verb].map(OsString::from);
        let flags = self.flags.iter().map(Flag::argument);
        program.into_iter().chain(flags).collect()
    }

    /// The command as it is typed into a POSIX shell.
    pub(crate) fn shell(&self) -> String {
        let words = ["icd".to_owned(), self.verb.clone()];
        let flags = self.flags.iter().map(Flag::shell);
        words.into_iter().chain(flags).collect::<Vec<_>>().join(" ")
    }
}

impl Flag {
    fn new(id: &str, long: &str, value: Option<OsString>) -> Self {
        Self {
            id: id.into(),
            long: long.into(),
            value,
        }
    }

    fn argument(&self) -> OsString {
        let mut argument = OsString::from(format!("--{}", self.long));
        if let Some(value) = &self.value {
            argument.push("=");
            argument.push(value);
        }
        argument
    }

    fn shell(&self) -> String {
        let long = &self.long;
        let Some(value) = &self.value else {
            return format!("--{long}");
        };
        let value = value.to_string_lossy();
        let sign = if value.starts_with('-') { '=' } else { ' ' };
        format!("--{long}{sign}{}", quoted(&value))
    }
}

/// The values of a flag that was given.
fn given(id: &str, long: &str, matches: &ArgMatches) -> Vec<Flag> {
    let values = matches.try_get_raw(id).ok().flatten();
    let values = values.into_iter().flatten();
    values
        .map(|value| Flag::new(id, long, Some(value.into())))
        .collect()
}

/// A word that a POSIX shell leaves as it is.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "%+,-./:=@_".contains(char);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};

    use super::*;

    fn typed(words: &[&str]) -> Typed {
        let flag = |name: &'static str| Arg::new(name).long(name);
        let command = Command::new("edit")
            .no_binary_name(true)
            .arg(flag("tau").default_value("0.7"))
            .arg(flag("word").action(ArgAction::Append))
            .arg(flag("force").action(ArgAction::SetTrue));
        let matches = command.clone().try_get_matches_from(words).unwrap();
        Typed::of(&command, &matches)
    }

    #[test]
    fn what_was_typed_is_typed_again_and_nothing_else() {
        assert_eq!(typed(&[]).shell(), "icd edit");
        let all = typed(&["--force", "--word", "it's", "--tau=-1", "--word=a b"]);
        let shell = r"icd edit --tau=-1 --word 'it'\''s' --word 'a b' --force";
        assert_eq!(all.shell(), shell);
        let arguments = [
            "icd",
            "edit",
            "--tau=-1",
            "--word=it's",
            "--word=a b",
            "--force",
        ];
        assert_eq!(all.arguments(), arguments);
        let other = all.without(&["word", "force"]).with("self_replace", "");
        assert_eq!(other.shell(), "icd edit --tau=-1 --self-replace ''");
        assert_eq!(other.arguments()[3], "--self-replace=");
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_gives_every_word_back() {
        for word in [
            "", "a b", "it's", "$HOME", "`id`", "a\"b", "*", "a\nb", "\\", "#x", "~", "é鳥",
        ] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(output.unwrap().stdout, word.as_bytes(), "{word:?}");
        }
    }
}
