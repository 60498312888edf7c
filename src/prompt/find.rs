//! Searching words in a prompt.

use std::ops::Range;

use tokenizers::NormalizedString;

use super::{Prompt, Word, overlapping};
use crate::error::{Error, Result};

impl Prompt {
    /// Returns the token positions of every occurrence of `word`, or of a phrase
    /// of several words, in ascending order.
    ///
    /// If there is no exact match, case and the punctuation around words are ignored;
    /// the tokens of that punctuation are then not included.
    pub fn find(&self, word: &str) -> Result<Vec<usize>> {
        let wanted: Vec<&str> = word.split_whitespace().collect();
        if wanted.is_empty() {
            return Err(Error::prompt(&self.text, "the word to search is empty"));
        }
        let exact = self.phrases(&wanted, |word| word.text.clone());
        let tokens = positions(&exact, |word| word.tokens.clone());
        if !tokens.is_empty() {
            return Ok(tokens);
        }
        let wanted: Vec<String> = wanted.into_iter().map(|word| fold(core(word))).collect();
        let loose = self.phrases(&wanted, Word::folded);
        let tokens = positions(&loose, |word| overlapping(&self.spans, &word.core_span()));
        match (tokens.is_empty(), loose.is_empty()) {
            (false, _) => Ok(tokens),
            (true, false) => Err(self.cuts(word)),
            (true, true) => Err(self.lacks(word)),
        }
    }

    /// All phrases whose words have the `wanted` spellings.
    fn phrases<W: AsRef<str>>(
        &self,
        wanted: &[W],
        spelling: impl Fn(&Word) -> String,
    ) -> Vec<&[Word]> {
        let alike = |(word, wanted): (&Word, &W)| spelling(word) == wanted.as_ref();
        let phrases = self.words.windows(wanted.len());
        phrases
            .filter(|phrase| phrase.iter().zip(wanted).all(alike))
            .collect()
    }

    fn cuts(&self, word: &str) -> Error {
        let context = self.context();
        let reason = format!(
            "the text encoder reads {context} tokens, and {word:?} comes after them; \
             shorten the prompt or move the word forward"
        );
        Error::prompt(&self.text, reason)
    }

    fn lacks(&self, word: &str) -> Error {
        let words = self.words.iter().map(|word| format!("{:?}", word.text));
        let words = match self.words.is_empty() {
            true => "none".to_owned(),
            false => words.collect::<Vec<_>>().join(", "),
        };
        let reason = format!("has no word {word:?}; its words: {words}");
        Error::prompt(&self.text, reason)
    }
}

impl Word {
    /// The word without the punctuation around it, unless it consists of punctuation.
    pub fn core(&self) -> &str {
        core(&self.text)
    }

    /// The core in lower case, with composed accents and straight apostrophes.
    pub(super) fn folded(&self) -> String {
        fold(self.core())
    }

    /// Whether it consists of punctuation.
    pub(super) fn is_punctuation(&self) -> bool {
        self.text.chars().all(is_punctuation)
    }

    /// Byte range of the core in the prompt.
    fn core_span(&self) -> Range<usize> {
        let core = self.core();
        let start = self.span.start + self.text.find(core).unwrap_or(0);
        start..start + core.len()
    }
}

fn positions(phrases: &[&[Word]], tokens: impl Fn(&Word) -> Range<usize>) -> Vec<usize> {
    let mut positions: Vec<usize> = phrases.iter().copied().flatten().flat_map(tokens).collect();
    positions.sort_unstable();
    // The runs of a phrase such as "very very" may overlap.
    positions.dedup();
    positions
}

fn core(word: &str) -> &str {
    let core = word.trim_matches(is_punctuation);
    if core.is_empty() { word } else { core }
}

fn fold(word: &str) -> String {
    let mut folded = NormalizedString::from(word);
    folded.nfc().lowercase();
    folded.get().replace('’', "'")
}

/// Punctuation of ASCII and Latin-1, quotation marks, dashes and dots, and their
/// counterparts in Arabic, Devanagari and East Asian scripts.
fn is_punctuation(mark: char) -> bool {
    mark.is_ascii_punctuation()
        || matches!(
            mark,
            '¡' | '§' | '«' | '¶' | '·' | '»' | '¿' | '،' | '؛' | '؟' | '।' | '॥'
        )
        || matches!(mark, '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}')
        || matches!(mark, '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}')
        || matches!(mark, '\u{3014}'..='\u{301f}' | '・')
        || matches!(mark, '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}')
        || matches!(mark, '\u{ff3b}'..='\u{ff40}' | '\u{ff5b}'..='\u{ff65}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::prompt::tiny::prompt;

    fn find(text: &str, word: &str) -> Vec<usize> {
        prompt(text).find(word).unwrap()
    }

    fn refusal(text: &str, word: &str) -> String {
        prompt(text).find(word).unwrap_err().to_string()
    }

    #[test]
    fn every_occurrence_is_found_with_all_its_tokens() {
        assert_eq!(find("the cat on the hat", "the"), [1, 4]);
        assert_eq!(find("the woodpecker on the hat", "woodpecker"), [2, 3, 4]);
    }

    #[test]
    fn exact_words_come_before_similar_ones() {
        assert_eq!(find("Cat, cat", "cat"), [3]);
        assert_eq!(find("Cat, cat", "Cat,"), [1, 2]);
    }

    #[test]
    fn similar_words_give_the_tokens_of_their_letters_only() {
        assert_eq!(find("the (CAT), on", "cat"), [3]);
        assert_eq!(find("the cat on", "Cat!"), [2]);
        assert_eq!(find("the 'hat' on", "hat"), [3]);
        assert_eq!(find("“tree”", "tree"), [4]);
    }

    #[test]
    fn accents_and_apostrophes_may_be_written_either_way() {
        assert_eq!(find("the cafe\u{301} on", "caf\u{e9}"), [2, 3]);
        // The curly apostrophe has three bytes, none of them merged.
        assert_eq!(find("dog’s", "dog's"), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn phrases_are_consecutive_words() {
        assert_eq!(find("the palm tree on palm hat tree", "palm tree"), [2, 3]);
        assert_eq!(find("the Palm  tree, palm", " palm tree "), [2, 3]);
        assert_eq!(find("red red red hat", "red red"), [1, 2, 3]);
    }

    #[test]
    fn punctuation_and_emoji_can_be_named_themselves() {
        assert_eq!(find("cat - hat", "-"), [2]);
        assert_eq!(find("cat 👍 hat", "👍"), [2, 3, 4, 5]);
    }

    #[test]
    fn a_missing_word_is_named_with_the_words_there_are() {
        assert_eq!(
            refusal("the cat,", "dog"),
            r#"prompt "the cat,": has no word "dog"; its words: "the", "cat,""#
        );
        assert_eq!(
            refusal("", "dog"),
            r#"prompt "": has no word "dog"; its words: none"#
        );
        assert!(refusal("the cat", " ").contains("the word to search is empty"));
    }

    #[test]
    fn a_word_beyond_the_context_is_said_to_be_cut_off() {
        let text = format!("{}hat", "woodpecker ".repeat(5));
        assert!(refusal(&text, "hat").contains("reads 16 tokens, and \"hat\" comes after them"));
        assert!(refusal(&text, "HAT").contains("comes after them"));
        assert!(refusal(&text, "dog").contains("has no word"));
        // The fifth woodpecker is cut in two.
        assert_eq!(find(&text, "woodpecker"), (1..15).collect::<Vec<_>>());
    }
}
