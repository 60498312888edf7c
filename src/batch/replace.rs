//! Target prompts that are captions with other words.

use std::str::FromStr;

use crate::error::{Error, Result};

/// Words of a caption, and the words in their place, as in `bird=lego bird`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    from: String,
    to: String,
}

impl FromStr for Replacement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((from, to)) if !from.trim().is_empty() => Ok(Self {
                from: from.trim().into(),
                to: to.trim().into(),
            }),
            _ => Err(Error::setting(
                "write words and those in their place, as in \"bird=lego bird\"",
            )),
        }
    }
}

impl Replacement {
    /// The caption with all of these made at once, literally and of whole words only. An error
    /// if none of their words stands in it, or if nothing is left.
    pub fn all(replacements: &[Self], caption: &str) -> Result<String> {
        let (mut done, mut rest, mut count) = (String::new(), caption, 0);
        while let Some(next) = rest.chars().next() {
            let found = replacements
                .iter()
                .find(|one| is_word(&done, rest, &one.from));
            if let Some(one) = found {
                done.push_str(&one.to);
                rest = &rest[one.from.len()..];
                count += 1;
            }
            // What follows the words is not joined to the new ones.
            let next = found.map_or(Some(next), |_| rest.chars().next());
            if let Some(next) = next {
                done.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        if count == 0 {
            let words: Vec<_> = replacements.iter().map(|one| &one.from[..]).collect();
            let reason = format!("it has no {:?}", words.join("\" or \""));
            return Err(Error::prompt(caption, reason));
        }
        match done.trim().is_empty() {
            true => Err(Error::prompt(caption, "nothing is left of it")),
            false => Ok(done),
        }
    }
}

/// Whether `rest`, which follows `before`, begins with these words, whole.
fn is_word(before: &str, rest: &str, words: &str) -> bool {
    let Some(after) = rest.strip_prefix(words) else {
        return false;
    };
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (first, last) = (words.chars().next(), words.chars().next_back());
    let is_joined = joins(before.chars().next_back()) && joins(first)
        || joins(last) && joins(after.chars().next());
    !is_joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(replacements: &[&str], caption: &str) -> Result<String> {
        let all: Vec<_> = replacements
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        Replacement::all(&all, caption)
    }

    #[test]
    fn whole_words_are_replaced_literally() {
        let made = |replacements: &[&str], caption| made(replacements, caption).unwrap();
        assert_eq!(
            made(&["bird=lego bird"], "a bird, birds, bird"),
            "a lego bird, birds, lego bird"
        );
        assert_eq!(
            made(&["blue/white=- R&B \\1"], "in blue/white. Not blue/whites"),
            "in - R&B \\1. Not blue/whites"
        );
        assert_eq!(
            made(&["cat=dog", "dog=cat"], "a cat and a dog"),
            "a dog and a cat"
        );
        assert_eq!(made(&["blue="], "a blue star"), "a  star");
        assert_eq!(made(&["été=a=b"], "l'été étéx"), "l'a=b étéx");
    }

    #[test]
    fn captions_without_the_words_are_refused() {
        assert!(
            made(&["cat=dog"], "a catfish")
                .unwrap_err()
                .to_string()
                .contains("\"cat\"")
        );
        assert!(made(&["blue="], "blue").is_err());
        for text in ["", "cat", "=dog", " =dog"] {
            assert!(text.parse::<Replacement>().is_err(), "{text:?}");
        }
    }
}
