//! Pairs of words of the source and a target, as settings mean them.

use std::slice;

use crate::{
    control::WordPair,
    error::{Error, Result, Setting},
    prompt::{
        Prompt,
        words::{self, WordTokens},
    },
};

/// Words that local blend restricts the edit to, or whose attention masks MasaCtrl.
#[derive(Clone, Debug, PartialEq)]
pub enum Blend {
    /// The words that differ between source and target, where they differ.
    Auto,
    /// A source word and a target word, wherever they stand.
    Pair(WordPair),
}

/// The pairs of words of the source and of a target that are meant by `words`.
pub(super) fn pairs(
    words: &[Blend],
    source: &Prompt,
    target: &Prompt,
) -> Result<Vec<(WordTokens, WordTokens)>> {
    let mut blended = Vec::new();
    for blend in words {
        match blend {
            Blend::Auto => blended.extend(words::changed_pairs(source, target)),
            Blend::Pair(pair) => {
                let (from, to) = pair.reading(source, slice::from_ref(target));
                let missing = |_| WordTokens::missing(to);
                let to = target.find_word(to).unwrap_or_else(missing);
                blended.push((source.find_word(from)?, to));
            }
        }
    }
    let is_there = |pair: &(WordTokens, WordTokens)| !pair.1.is_missing();
    if blended.iter().any(is_there) {
        blended.retain(is_there);
    }
    Ok(blended)
}

/// The error of pairs that the prompts do not show.
pub(super) fn no_pairs(setting: Setting, target: &Prompt) -> Error {
    let reason = format!(
        "no words of {:?} and the source prompt differ one for one: name them, as in bird:dog",
        target.text()
    );
    Error::of(setting, reason)
}
