//! The hub's environment variables, read as by the Python package `huggingface_hub`
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>),
//! except that an empty value counts as unset.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    io::Source,
};

/// A variable's text, unless it is blank.
pub(super) fn text(name: &str) -> Option<String> {
    let value = env::var(name).ok()?;
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The path in a variable, unless it is empty, with `~` and `$NAME` expanded.
pub(super) fn path(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty())?;
    Some(expanded(value, &|name| env::var_os(name), &home_of))
}

/// The first path in variables with several names, the current one first.
fn first_path(names: &[&str]) -> Option<PathBuf> {
    names.iter().find_map(|name| path(name))
}

/// The folder of the cache; `None` if no variable names one and there is no home folder.
pub(super) fn cache() -> Option<PathBuf> {
    let named = first_path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
    named.or_else(|| Some(home()?.join("hub")))
}

/// The folder of the hub's cache and token.
fn home() -> Option<PathBuf> {
    let default = || Some(dirs::home_dir()?.join(".cache"));
    let caches = || path("XDG_CACHE_HOME").or_else(default);
    path("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}

/// The token in a variable, else the one in the file of `hf auth login`.
pub(super) fn token() -> Result<Option<String>> {
    if let Some(token) = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
        return Ok(Some(token));
    }
    let file = path("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")));
    file.map_or(Ok(None), |file| token_in(&file))
}

/// The token in a file, if there is one.
fn token_in(file: &Path) -> Result<Option<String>> {
    match Source::from(file).text() {
        Ok(token) => Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(Error::Io { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether downloads are forbidden.
pub(super) fn is_offline() -> bool {
    let value = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
    value.is_some_and(|value| ["1", "true", "yes", "on"].contains(&&*value.to_lowercase()))
}

/// The home folder of a user, and that of the one who runs this under the empty name.
fn home_of(user: &str) -> Option<PathBuf> {
    if user.is_empty() {
        return dirs::home_dir();
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let home = |line: &str| {
        let line = line.strip_prefix(user)?.strip_prefix(':')?;
        line.split(':').nth(4).map(PathBuf::from) // password, uid, gid, comment, home
    };
    users.lines().find_map(home)
}

/// A path with a leading `~` or `~user` replaced by the home folder, then `$NAME` and `${NAME}`
/// by the variables, as Python's `expanduser` and `expandvars` do: what is not known stays.
fn expanded(
    path: OsString,
    variable: &dyn Fn(&str) -> Option<OsString>,
    home: &dyn Fn(&str) -> Option<PathBuf>,
) -> PathBuf {
    // A path that is not UTF-8 is taken as it is.
    let Some(text) = path.to_str() else {
        return path.into();
    };
    let (mut whole, mut rest) = (OsString::new(), text);
    if let Some(after) = text.strip_prefix('~') {
        let end = after.find(std::path::is_separator);
        let (user, after) = after.split_at(end.unwrap_or(after.len()));
        if let Some(home) = home(user) {
            whole.push(home);
            rest = after;
        }
    }
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        whole.push(before);
        let (name, after) = name_at(&from[1..]);
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => whole.push(value),
            None => whole.push(&from[..from.len() - after.len()]),
        }
        rest = after;
    }
    whole.push(rest);
    whole.into()
}

/// The name at the beginning of a text, in braces or not, and what follows it.
fn name_at(text: &str) -> (&str, &str) {
    if let Some((name, after)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, after);
    }
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(path: &str) -> PathBuf {
        let variable = |name: &str| (name == "A").then(|| "/a".into());
        let home = |user: &str| match user {
            "" => Some("/home/me".into()),
            "you" => Some("/home/you".into()),
            _ => None,
        };
        expanded(path.into(), &variable, &home)
    }

    /// By Python's `os.path.expandvars(os.path.expanduser(..))`.
    #[test]
    fn paths_are_expanded_as_by_python() {
        for (path, whole) in [
            ("~", "/home/me"),
            ("~/hf", "/home/me/hf"),
            ("$A/hf", "/a/hf"),
            ("${A}hf/$A", "/ahf//a"),
            ("x/~/$B/${B}", "x/~/$B/${B}"),
            ("$", "$"),
            ("$$A", "$/a"),
            ("${A", "${A"),
            ("~other/$A", "~other//a"),
            ("~you/$A", "/home/you//a"),
            ("~you", "/home/you"),
        ] {
            assert_eq!(expand(path), PathBuf::from(whole), "{path}");
        }
    }

    #[test]
    fn without_a_home_the_tilde_stays() {
        assert_eq!(
            expanded("~/x".into(), &|_| None, &|_| None),
            PathBuf::from("~/x")
        );
    }

    #[test]
    fn a_token_file_may_have_a_mark_but_must_be_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert_eq!(token_in(&file).unwrap(), None);
        fs::write(&file, "\u{feff}hf_x\r\n").unwrap();
        assert_eq!(token_in(&file).unwrap().as_deref(), Some("hf_x"));
        fs::write(&file, b"hf_\xff").unwrap();
        assert!(token_in(&file).is_err());
    }
}
