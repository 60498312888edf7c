//! Pairs of a source word and a target word, as in `bird:dog`.

use std::str::FromStr;

use crate::{
    error::{Error, Result},
    prompt::Prompt,
};

/// A source word and a target word.
///
/// A text with several colons, as `12:30:12:45`, can be divided at each of them; the
/// prompts tell at which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordPair {
    first: (String, String),
    /// What else the text may mean.
    others: Vec<(String, String)>,
}

impl WordPair {
    /// A pair of words.
    pub fn new(source: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            first: (source.into(), target.into()),
            others: Vec::new(),
        }
    }

    /// The (source, target) words: the first division whose halves the source prompt and
    /// one of the targets have, else one whose first half the source prompt has.
    pub(super) fn reading(&self, source: &Prompt, targets: &[Prompt]) -> (&str, &str) {
        let readings = || [&self.first].into_iter().chain(&self.others);
        let from = |(from, _): &&(String, String)| source.find(from).is_ok();
        let to = |(_, to): &&(String, String)| targets.iter().any(|it| it.find(to).is_ok());
        let known = readings().find(|pair| from(pair) && to(pair));
        let (from, to) = known
            .or_else(|| readings().find(from))
            .unwrap_or(&self.first);
        (from, to)
    }
}

impl FromStr for WordPair {
    type Err = Error;

    /// Parses `bird:dog`.
    fn from_str(text: &str) -> Result<Self> {
        let halves = text.match_indices(':');
        let halves = halves.map(|(at, _)| (text[..at].to_owned(), text[at + 1..].to_owned()));
        let is_full =
            |(from, to): &(String, String)| !from.trim().is_empty() && !to.trim().is_empty();
        let mut readings = halves.filter(is_full);
        let reason = || format!("{text:?}: write a source word and a target word as in bird:lego");
        Ok(Self {
            first: readings.next().ok_or_else(|| Error::setting(reason()))?,
            others: readings.collect(),
        })
    }
}
