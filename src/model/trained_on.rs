//! What a model states of its training data, so that other input can be warned about.

use std::{collections::BTreeSet, sync::Arc};

use serde::Deserialize;

use super::{Model, Tokenizers, once};
use crate::{
    error::Result,
    prompt::{Prompt, Word},
};

/// The table `trained_on` of `icd.toml`. A model that states nothing was trained on all kinds
/// of input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainedOn {
    /// Whether all pictures were squares of the model's own size.
    pub square: bool,
    /// The words of all captions; none are stated if it is empty.
    pub words: Vec<String>,
}

impl Model {
    /// What the model states of its training data.
    pub fn trained_on(&self) -> &TrainedOn {
        &self.parts.trained_on
    }

    /// The words of a prompt that have tokens which occurred in no caption of the training,
    /// in order and once each; none if the model does not state its words. Words beyond the
    /// context are left out, as is punctuation.
    pub fn unseen_words(&self, prompt: &Prompt) -> Result<Vec<String>> {
        let stated = &self.trained_on().words;
        if stated.is_empty() {
            return Ok(Vec::new());
        }
        let tokenizers = self.tokenizers()?;
        let seen = once(&self.known.seen, || {
            let words = stated.iter().map(|word| content(&tokenizers, word));
            let words: Vec<_> = words.collect::<Result<_>>()?;
            let tokens: BTreeSet<_> = words.concat().into_iter().collect();
            Ok(Arc::new(tokens))
        })?;
        let mut unseen = Vec::new();
        for word in prompt.words().iter().filter(|word| is_read(word)) {
            let word = word.text.trim_matches(|char: char| !char.is_alphanumeric());
            let tokens = content(&tokenizers, word)?;
            if !tokens.iter().all(|id| seen.contains(id)) && !unseen.iter().any(|w| w == word) {
                unseen.push(word.to_owned());
            }
        }
        Ok(unseen)
    }
}

fn is_read(word: &Word) -> bool {
    !word.tokens.is_empty()
}

/// The ids of a text without start and end.
fn content(tokenizers: &Tokenizers, text: &str) -> Result<Vec<u32>> {
    let prompt = tokenizers.tokenize(text)?;
    let tokens = prompt.tokens();
    Ok(tokens[1..tokens.len() - 1].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::ModelChoice, nn::Placement};

    fn unseen(text: &str) -> Vec<String> {
        let shapes = Model::open(
            &ModelChoice::named("tests/data/shapes"),
            Placement::cpu_f32(),
        )
        .unwrap();
        let prompt = shapes.tokenizers().unwrap().tokenize(text).unwrap();
        shapes.unseen_words(&prompt).unwrap()
    }

    #[test]
    fn words_with_tokens_of_no_caption_are_unseen() {
        assert_eq!(
            unseen("a giraffe, a Red star: A GIRAFFE and a zebra"),
            ["giraffe", "GIRAFFE", "zebra"]
        );
        // Joined letters that are tokens, but no words.
        assert_eq!(unseen("background backgro"), ["backgro"]);
        assert!(unseen("There is a little cyan disc, in the centre.").is_empty());
        assert!(unseen("").is_empty() && unseen("- a -").is_empty());
    }

    #[test]
    fn a_model_that_states_no_words_has_seen_all() {
        let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32());
        let model = model.unwrap();
        let prompt = model.tokenizers().unwrap().tokenize("a giraffe").unwrap();
        assert!(model.unseen_words(&prompt).unwrap().is_empty());
    }
}
