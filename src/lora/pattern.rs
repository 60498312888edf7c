//! PEFT's patterns of layer names (`get_pattern_key` in peft/utils/other.py).

use std::fmt;

use fancy_regex::{Regex, RegexBuilder};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

/// Values of layers, by patterns in the order of the file: `rank_pattern` and
/// `alpha_pattern` of PEFT.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Patterns(pub(super) Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Patterns;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("numbers by the names of layers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patterns, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Patterns(all))
            }
        }
        file.deserialize_map(InOrder)
    }
}

/// Patterns, ready to be matched.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher(Vec<(Pattern, f64)>);

impl Matcher {
    /// Compiles patterns; the error names the one at fault.
    pub(super) fn new(patterns: &Patterns) -> Result<Self, String> {
        let one = |(key, value): &(String, f64)| Ok((Pattern::new(key)?, *value));
        patterns
            .0
            .iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The value of the first pattern that is the end of a module's path, behind a dot or
    /// at its beginning.
    pub(super) fn of(&self, module: &str) -> Result<Option<f64>, String> {
        for (pattern, value) in &self.0 {
            if pattern.matches(module)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// A regular expression. Most are plain names, whose dots stand for any character, and
/// which match without the machinery.
#[derive(Clone, Debug)]
enum Pattern {
    Name(String),
    /// A name behind `^`: all of the path.
    Whole(String),
    Regex(Box<Regex>),
}

/// Bounds of a regular expression: patterns of layers need a small part of them, and others
/// take seconds. Bytes when compiled, and steps backwards in a match.
const MAX_COMPILED: usize = 1 << 20;
const MAX_STEPS: usize = 100_000;

impl Pattern {
    fn new(key: &str) -> Result<Self, String> {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
        let (is_whole, name) = match key.strip_prefix('^') {
            Some(name) => (true, name),
            None => (false, key),
        };
        if name.chars().all(is_plain) {
            let name = name.to_owned();
            return Ok(if is_whole {
                Self::Whole(name)
            } else {
                Self::Name(name)
            });
        }
        let regex = RegexBuilder::new(&format!(r"\A(.*\.)?({key})$"))
            .delegate_size_limit(MAX_COMPILED)
            .backtrack_limit(MAX_STEPS)
            .build();
        let fault = |_| format!("pattern {key:?} is no regular expression, or too large a one");
        regex.map(Box::new).map(Self::Regex).map_err(fault)
    }

    fn matches(&self, module: &str) -> Result<bool, String> {
        let fault = |_| format!("a pattern takes too long on {module:?}");
        match self {
            Self::Name(name) => Ok(module.len() >= name.len() && {
                let (before, end) = module.as_bytes().split_at(module.len() - name.len());
                (before.is_empty() || before.ends_with(b".")) && is(name, end)
            }),
            Self::Whole(name) => Ok(is(name, module.as_bytes())),
            Self::Regex(regex) => regex.is_match(module).map_err(fault),
        }
    }
}

/// Whether a text is this name, whose dots stand for any character.
fn is(name: &str, text: &[u8]) -> bool {
    let mut pairs = name.bytes().zip(text);
    name.len() == text.len() && pairs.all(|(a, &b)| a == b || a == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";

    fn of(keys: &[&str], module: &str) -> Option<f64> {
        let keys = keys.iter().zip(1..);
        let patterns = keys.map(|(key, value)| (key.to_string(), f64::from(value)));
        let matcher = Matcher::new(&Patterns(patterns.collect())).unwrap();
        matcher.of(module).unwrap()
    }

    /// What Python's `re.match(rf"(.*\.)?({key})$", module)` says.
    #[test]
    fn patterns_match_as_in_python() {
        for key in [
            "to_q",
            "attn1.to_q",
            "^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            ".*",
            "down_blocks.*",
            r"attn\d\.to_(q|k)",
            "to_k|to_q",
            r".*attn1.*",
            "",
        ] {
            let expected = (!key.is_empty()).then_some(1.0);
            assert_eq!(of(&[key], QUERY), expected, "{key:?}");
        }
        for key in [
            "o_q",
            "to_",
            "attn1_to_q",
            "^to_q",
            "attn2.to_q",
            "down_blocks",
            "TO_Q",
        ] {
            assert_eq!(of(&[key], QUERY), None, "{key:?}");
        }
        assert_eq!(of(&["to_q"], "to_q"), Some(1.0));
        assert_eq!(of(&["x.to_q"], "to_q"), None);
        assert_eq!(of(&["to_k", "attn1.to_q", "to_q"], QUERY), Some(2.0));
    }

    #[test]
    fn patterns_that_take_seconds_are_refused() {
        for key in [r"(\w{1000}){1000}", r"\w{2000}", "("] {
            let patterns = Patterns(vec![(key.into(), 1.0)]);
            assert!(Matcher::new(&patterns).is_err(), "{key}");
        }
        let steps = Matcher::new(&Patterns(vec![("(?:(?=d).|.)*!".into(), 1.0)])).unwrap();
        assert!(steps.of(&QUERY.repeat(9)).is_err());
    }

    #[test]
    fn patterns_keep_the_order_of_the_file() {
        let patterns: Patterns = serde_json::from_str(r#"{"to_q": 4, "attn1.to_q": 8.5}"#).unwrap();
        assert_eq!(
            patterns.0,
            [("to_q".into(), 4.0), ("attn1.to_q".into(), 8.5)]
        );
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for key in ["to_(q", "*", "[a"] {
            let patterns = Patterns(vec![(key.into(), 1.0)]);
            assert!(Matcher::new(&patterns).unwrap_err().contains(key));
        }
    }
}
