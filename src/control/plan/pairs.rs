//! Pairs of words of the source and a target, as settings mean them.

use std::slice;

use crate::{
    control::WordPair,
    error::{Error, Result, Setting},
    model::DefaultBlend,
    prompt::{Prompt, words::WordTokens},
};

/// What local blend restricts the edit to, or whose attention masks MasaCtrl.
#[derive(Clone, Debug, PartialEq)]
pub enum Blend {
    /// The words that differ between source and target, where they differ. For local blend also
    /// those that come or go, in prompts with different numbers of words.
    Auto,
    /// A source word and a target word, wherever they stand.
    Pair(WordPair),
    /// What the edit changes most ([`LocalBlend::by_difference`](crate::control::LocalBlend)), for
    /// local blend alone, and without words.
    Difference,
}

impl Blend {
    /// What edits are blended by where a model's default is taken.
    pub fn by_default(stated: DefaultBlend) -> Vec<Self> {
        match stated {
            DefaultBlend::None => Vec::new(),
            DefaultBlend::Difference => vec![Self::Difference],
        }
    }
}

/// The words that [`Blend::Auto`] means for a source and a target.
pub(super) type Auto = fn(&Prompt, &Prompt) -> Vec<(WordTokens, WordTokens)>;

/// The pairs of words of the source and of a target that are meant by `words`.
pub(super) fn pairs(
    words: &[Blend],
    auto: Auto,
    source: &Prompt,
    target: &Prompt,
) -> Result<Vec<(WordTokens, WordTokens)>> {
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for blend in words {
        match blend {
            Blend::Difference => (),
            Blend::Auto => found.extend(auto(source, target)),
            Blend::Pair(pair) => {
                let (from, to) = pair.reading(source, slice::from_ref(target));
                let from = source.find_word(from)?;
                match target.find_word(to) {
                    Ok(to) => found.push((from, to)),
                    Err(_) => absent.push((from, WordTokens::missing(to))),
                }
            }
        }
    }
    Ok(match found.is_empty() {
        true => absent,
        false => found,
    })
}

/// The error of pairs that the prompts do not show.
pub(super) fn no_pairs(setting: Setting, target: &Prompt) -> Error {
    let how = match setting {
        Setting::MasactrlMask => " one for one",
        _ => "",
    };
    let reason = format!(
        "no words of {:?} and the source prompt differ{how}: name them, as in bird:dog",
        target.text()
    );
    Error::of(setting, reason)
}
