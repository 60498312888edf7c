//! Searching words in a prompt.

use std::ops::Range;

use tokenizers::{NormalizedString, normalizer::Range as Offsets};

use super::{
    Prompt, Word,
    characters::{is_invisible, is_mark, is_punctuation, is_unspaced},
    overlapping, words_of,
};
use crate::error::{Error, Result};

impl Prompt {
    /// Returns the token positions of every occurrence of `word`, or of a phrase
    /// of several words, in ascending order.
    ///
    /// If there is no exact match, case, the punctuation around words and characters that
    /// are not seen are ignored; the tokens of that punctuation are then not included. A
    /// word that is still not found is looked for inside runs of a script that puts no
    /// blanks between words, such as Chinese.
    pub fn find(&self, word: &str) -> Result<Vec<usize>> {
        let wanted: Vec<&str> = words_of(word).collect();
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
        let inside = match (&loose[..], &wanted[..]) {
            ([], [wanted]) => self.inside(wanted),
            _ => Vec::new(),
        };
        let mut tokens = positions(&loose, |word| self.core_tokens(word));
        tokens.extend(
            inside
                .iter()
                .flat_map(|span| overlapping(&self.spans, span)),
        );
        tokens.dedup();
        match (tokens.is_empty(), loose.is_empty() && inside.is_empty()) {
            (false, _) => Ok(tokens),
            (true, false) => Err(self.cuts(word)),
            (true, true) => Err(self.lacks(word)),
        }
    }

    /// Positions of the tokens of a word of this prompt, without those of the punctuation
    /// around it.
    pub(super) fn core_tokens(&self, word: &Word) -> Range<usize> {
        overlapping(&self.spans, &word.core_span())
    }

    /// Byte ranges in the prompt where a folded word stands inside an unspaced run.
    fn inside(&self, wanted: &str) -> Vec<Range<usize>> {
        let words = self.words.iter();
        words.flat_map(|word| word.inside(wanted)).collect()
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

    /// The core in lower case, with composed accents and straight apostrophes, without
    /// characters that are not seen.
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

    /// Byte ranges in the prompt where the folded text `wanted` stands inside this word, if
    /// it has letters of an unspaced script.
    fn inside(&self, wanted: &str) -> Vec<Range<usize>> {
        let folded = folded(&self.text);
        let text = folded.get();
        if !text.contains(is_unspaced) {
            return Vec::new();
        }
        let places = text.match_indices(wanted);
        let places = places.map(|(start, _)| start..start + wanted.len());
        places
            .filter(|place| is_delimited(text, place))
            .filter_map(|place| folded.convert_offsets(Offsets::Normalized(place)))
            .map(|place| self.span.start + place.start..self.span.start + place.end)
            .collect()
    }
}

/// Whether a word can begin and end at the ends of a range: where an unspaced letter,
/// punctuation or nothing is on either side.
fn is_delimited(text: &str, place: &Range<usize>) -> bool {
    let (before, after) = (&text[..place.start], &text[place.end..]);
    let inner = &text[place.clone()];
    let divides = |left: Option<char>, right: Option<char>| {
        let ends = |letter: Option<char>| {
            letter.is_none_or(|letter| is_unspaced(letter) || is_punctuation(letter))
        };
        (ends(left) || ends(right)) && !right.is_some_and(is_mark)
    };
    divides(before.chars().next_back(), inner.chars().next())
        && divides(inner.chars().next_back(), after.chars().next())
}

fn positions(phrases: &[&[Word]], tokens: impl Fn(&Word) -> Range<usize>) -> Vec<usize> {
    let mut positions: Vec<usize> = phrases.iter().copied().flatten().flat_map(tokens).collect();
    positions.sort_unstable();
    // The runs of a phrase such as "very very" may overlap.
    positions.dedup();
    positions
}

fn core(word: &str) -> &str {
    let core = word.trim_matches(|mark| is_punctuation(mark) || is_invisible(mark));
    if core.is_empty() { word } else { core }
}

fn fold(word: &str) -> String {
    folded(word).get().to_owned()
}

/// A text as it is compared, with the places of its characters in the original.
fn folded(word: &str) -> NormalizedString {
    let mut folded = NormalizedString::from(word);
    folded.filter(|mark| !is_invisible(mark)).nfc().lowercase();
    // A pattern that is one character cannot fail.
    let _ = folded.replace('’', "'");
    folded
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
    fn characters_that_are_not_seen_make_no_difference() {
        // The mark has three bytes, none of them merged.
        assert_eq!(find("\u{feff}the cat on", "the"), [4]);
        let soft = prompt("the c\u{ad}at on");
        let cat = soft.words()[1].tokens.clone();
        assert_eq!(find("the c\u{ad}at on", "cat"), cat.collect::<Vec<_>>());
        assert_eq!(find("the cat on", "c\u{200d}at\u{fe0f}"), [2]);
        assert!(refusal("the cat", "\u{200b}").contains("the word to search is empty"));
    }

    /// Every character of these texts has three bytes, none of them merged: the tokens of
    /// character n are 3 n + 1 to 3 n + 3.
    #[test]
    fn words_are_found_inside_runs_without_blanks() {
        assert_eq!(find("一只狗坐", "狗"), [7, 8, 9]);
        assert_eq!(find("猫と犬。", "犬"), [7, 8, 9]);
        assert_eq!(find("หมา", "มา"), (4..10).collect::<Vec<_>>());
        // All occurrences, but a word of its own comes first.
        assert_eq!(find("狗与狗", "狗"), [1, 2, 3, 7, 8, 9]);
        assert_eq!(find("狗舍 狗", "狗"), [7, 8, 9]);
        // The mark over a letter belongs to it.
        assert!(refusal("กับ", "ก").contains("has no word"));
    }

    #[test]
    fn latin_words_are_found_in_such_runs_only_whole() {
        assert_eq!(find("红cat与hat", "cat"), [4, 5]);
        assert!(refusal("红cats", "cat").contains("has no word"));
        assert!(refusal("the palmtree", "palm").contains("has no word"));
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
