//! Differences between two prompts in words, as in the reference's batch script.

use std::ops::Range;

use super::{
    Prompt, Word,
    align::align,
    characters::{is_mark, is_unspaced},
    overlapping,
};
use crate::error::Result;

/// A word, and the positions of the tokens of those of its occurrences that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordTokens {
    /// The word, without the punctuation around it.
    pub word: String,
    /// Positions in the prompt's ids, ascending.
    pub tokens: Vec<usize>,
}

impl WordTokens {
    /// One occurrence.
    fn of(prompt: &Prompt, word: &Word) -> Self {
        Self {
            word: word.core().to_owned(),
            tokens: prompt.core_tokens(word).collect(),
        }
    }

    /// A part of a word, by its byte range there.
    fn part(prompt: &Prompt, word: &Word, part: &Range<usize>) -> Self {
        let span = word.span.start + part.start..word.span.start + part.end;
        Self {
            word: word.text[part.clone()].to_owned(),
            tokens: overlapping(&prompt.spans, &span).collect(),
        }
    }

    /// A word of the source and the one of the target at its place. Of runs in scripts that
    /// put no blanks between words only what differs.
    fn pair((source, from): (&Prompt, &Word), (target, to): (&Prompt, &Word)) -> (Self, Self) {
        let is_run = [from, to]
            .iter()
            .all(|word| word.text.contains(is_unspaced));
        match differing(&from.text, &to.text).filter(|_| is_run) {
            Some((part, other)) => (
                Self::part(source, from, &part),
                Self::part(target, to, &other),
            ),
            None => (Self::of(source, from), Self::of(target, to)),
        }
    }

    /// A word that a prompt does not have.
    pub(crate) fn missing(word: &str) -> Self {
        Self {
            word: word.to_owned(),
            tokens: Vec::new(),
        }
    }
}

impl Prompt {
    /// All occurrences of a word, as in [`find`](Self::find).
    pub fn find_word(&self, word: &str) -> Result<WordTokens> {
        Ok(WordTokens {
            word: word.to_owned(),
            tokens: self.find(word)?,
        })
    }
}

/// The byte ranges between a common beginning and a common end of two texts, if neither is
/// empty.
fn differing(from: &str, to: &str) -> Option<(Range<usize>, Range<usize>)> {
    let both = from.chars().zip(to.chars());
    let alike = both.take_while(|(one, other)| one == other);
    let mut start: usize = alike.map(|(letter, _)| letter.len_utf8()).sum();
    let both = from[start..].chars().rev().zip(to[start..].chars().rev());
    let alike = both.take_while(|(one, other)| one == other);
    let mut end: usize = alike.map(|(letter, _)| letter.len_utf8()).sum();
    // A mark belongs to the letter before it.
    while [from, to]
        .iter()
        .any(|text| text[start..].starts_with(is_mark))
    {
        start -= from[..start].chars().next_back()?.len_utf8();
    }
    while let Some(mark) = from[from.len() - end..]
        .chars()
        .next()
        .filter(|&it| is_mark(it))
    {
        end -= mark.len_utf8();
    }
    let (part, other) = (start..from.len() - end, start..to.len() - end);
    (!part.is_empty() && !other.is_empty()).then_some((part, other))
}

/// The words of the target that are not in the source, or in it fewer times, in order and
/// without duplicates, except stop words, punctuation and words beyond the context.
///
/// Case and the punctuation around words are ignored in comparisons. Of a word that both
/// prompts have, the occurrences are new that stand where the source has another word or
/// none.
pub fn new_words(source: &Prompt, target: &Prompt) -> Vec<WordTokens> {
    let (mut moved, changed) = changes(source, target);
    let mut new: Vec<(String, WordTokens)> = Vec::new();
    for (word, from) in changed.into_iter().filter(|(word, _)| is_content(word)) {
        let folded = word.folded();
        if let Some(from) = moved.iter().position(|moved| *moved == folded) {
            moved.swap_remove(from);
            continue;
        }
        let found = match from {
            Some(from) => WordTokens::pair((source, from), (target, word)).1,
            None => WordTokens::of(target, word),
        };
        match new.iter_mut().find(|(known, _)| *known == folded) {
            Some((_, known)) => known.tokens.extend(found.tokens),
            None => new.push((folded, found)),
        }
    }
    new.into_iter().map(|(_, found)| found).collect()
}

/// A word of the target, and the word of the source that it replaces, if known.
type Change<'a> = (&'a Word, Option<&'a Word>);

/// The folded words of the source that have no counterpart in the target, and the words of
/// the target without one in the source. Counterparts stand at the same place in prompts
/// with equally many words, else in the same order.
fn changes<'a>(source: &'a Prompt, target: &'a Prompt) -> (Vec<String>, Vec<Change<'a>>) {
    let folded = |prompt: &Prompt| prompt.words().iter().map(Word::folded).collect();
    let (mut from, to): (Vec<_>, Vec<_>) = (folded(source), folded(target));
    let is_placed = same_word_count(source, target);
    let aligned = match is_placed {
        true => (0..to.len())
            .map(|i| (from[i] == to[i]).then_some(i))
            .collect(),
        false => align(&from, &to),
    };
    let replaced = |place: usize| is_placed.then(|| &source.words()[place]);
    let changed = (0..).zip(target.words()).zip(&aligned);
    let changed = changed.filter(|(_, from)| from.is_none());
    let changed = changed.map(|((place, word), _)| (word, replaced(place)));
    let changed = changed.collect();
    let mut place = 0..;
    from.retain(|_| !aligned.contains(&place.next()));
    (from, changed)
}

/// Whether the prompts have equally many words.
pub fn same_word_count(source: &Prompt, target: &Prompt) -> bool {
    source.words().len() == target.words().len()
}

/// The (source, target) words that differ at the same place in prompts with equally many
/// words; empty if the counts differ. Each has the tokens of that place only.
///
/// Compared as in [`new_words`], including stop words, without pairs with a word beyond
/// the context.
pub fn changed_pairs(source: &Prompt, target: &Prompt) -> Vec<(WordTokens, WordTokens)> {
    if !same_word_count(source, target) {
        return Vec::new();
    }
    let pairs = source.words().iter().zip(target.words());
    pairs
        .filter(|(source, target)| !source.tokens.is_empty() && !target.tokens.is_empty())
        .filter(|(source, target)| source.folded() != target.folded())
        .map(|(from, to)| WordTokens::pair((source, from), (target, to)))
        .collect()
}

/// The (source, target) words that differ: as [`changed_pairs`] in prompts with equally many
/// words, else those that only one of them has, as [`new_words`], beside a word without tokens.
pub fn differing_words(source: &Prompt, target: &Prompt) -> Vec<(WordTokens, WordTokens)> {
    if same_word_count(source, target) {
        return changed_pairs(source, target);
    }
    let gone = new_words(target, source).into_iter();
    let gone = gone.map(|word| (word, WordTokens::missing("")));
    let new = new_words(source, target).into_iter();
    let new = new.map(|word| (WordTokens::missing(""), word));
    gone.chain(new).collect()
}

fn is_content(word: &Word) -> bool {
    let stop = STOP_WORDS.binary_search(&word.folded().as_str()).is_ok();
    !word.tokens.is_empty() && !word.is_punctuation() && !stop
}

/// The 179 English stop words of NLTK, sorted.
#[rustfmt::skip]
const STOP_WORDS: [&str; 179] = [
    "a", "about", "above", "after", "again", "against", "ain", "all", "am", "an", "and", "any",
    "are", "aren", "aren't", "as", "at", "be", "because", "been", "before", "being", "below",
    "between", "both", "but", "by", "can", "couldn", "couldn't", "d", "did", "didn", "didn't",
    "do", "does", "doesn", "doesn't", "doing", "don", "don't", "down", "during", "each", "few",
    "for", "from", "further", "had", "hadn", "hadn't", "has", "hasn", "hasn't", "have", "haven",
    "haven't", "having", "he", "her", "here", "hers", "herself", "him", "himself", "his", "how",
    "i", "if", "in", "into", "is", "isn", "isn't", "it", "it's", "its", "itself", "just", "ll",
    "m", "ma", "me", "mightn", "mightn't", "more", "most", "mustn", "mustn't", "my", "myself",
    "needn", "needn't", "no", "nor", "not", "now", "o", "of", "off", "on", "once", "only", "or",
    "other", "our", "ours", "ourselves", "out", "over", "own", "re", "s", "same", "shan",
    "shan't", "she", "she's", "should", "should've", "shouldn", "shouldn't", "so", "some",
    "such", "t", "than", "that", "that'll", "the", "their", "theirs", "them", "themselves",
    "then", "there", "these", "they", "this", "those", "through", "to", "too", "under", "until",
    "up", "ve", "very", "was", "wasn", "wasn't", "we", "were", "weren", "weren't", "what",
    "when", "where", "which", "while", "who", "whom", "why", "will", "with", "won", "won't",
    "wouldn", "wouldn't", "y", "you", "you'd", "you'll", "you're", "you've", "your", "yours",
    "yourself", "yourselves",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::tiny::prompt;

    fn new(source: &str, target: &str) -> Vec<String> {
        let new = new_words(&prompt(source), &prompt(target));
        new.into_iter().map(|found| found.word).collect()
    }

    /// The tokens of the new words.
    fn new_tokens(source: &str, target: &str) -> Vec<Vec<usize>> {
        let new = new_words(&prompt(source), &prompt(target));
        new.into_iter().map(|found| found.tokens).collect()
    }

    fn changed(source: &str, target: &str) -> Vec<(WordTokens, WordTokens)> {
        changed_pairs(&prompt(source), &prompt(target))
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn new_words_come_in_order_and_once_without_stop_words() {
        assert_eq!(new("a cat", "a red hat on the red cat"), ["red", "hat"]);
        assert!(new("a cat on a tree", "the tree isn't in A cat").is_empty());
    }

    #[test]
    fn of_a_word_that_stands_twice_the_place_that_changed_is_new() {
        let [red, cat] = ["the red cat on a hat", "the cat on a red hat"];
        assert_eq!(new_tokens(red, "the red cat on a red hat"), [[6]]);
        assert_eq!(new_tokens(cat, "the red cat on a red hat"), [[2]]);
        assert_eq!(new_tokens("the dog on a cat", "the cat on a cat"), [[2]]);
        // All of one that the source lacks, with its spellings; none of one that moved.
        assert_eq!(new_tokens("the cat on", "the red cat (Red) on"), [[2, 5]]);
        assert!(new_tokens("the cat on the hat", "the hat on the cat").is_empty());
    }

    #[test]
    fn a_changed_pair_has_the_tokens_of_its_place() {
        let pairs = changed("the cat on the cat", "the cat on the dog");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(from, to)| [&from.tokens, &to.tokens])
            .collect();
        assert_eq!(pairs, [[&vec![5], &vec![5]]]);
    }

    #[test]
    fn case_and_punctuation_make_no_new_word() {
        assert!(new("a cat on a tree", "A Cat, on - a tree!").is_empty());
        assert_eq!(new("a cat", "a (Red) cat’s"), ["Red", "cat’s"]);
        assert!(new("it", "it’s").is_empty());
    }

    #[test]
    fn words_beyond_the_context_are_not_new() {
        let long = "woodpecker ".repeat(5);
        assert_eq!(new(&long, &format!("hat {long} red")), ["hat"]);
    }

    #[test]
    fn new_words_can_be_found() {
        let target = prompt("the Dog, red!");
        for found in new_words(&prompt("the cat"), &target) {
            assert_eq!(target.find(&found.word).unwrap(), found.tokens);
        }
    }

    #[test]
    fn changed_pairs_stand_at_the_same_place() {
        let pairs = changed("the cat, on the tree", "The dog, on a tree");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(from, to)| (&from.word[..], &to.word[..]))
            .collect();
        assert_eq!(pairs, [("cat", "dog"), ("the", "a")]);
    }

    #[test]
    fn of_runs_without_blanks_the_part_that_differs_is_changed() {
        for (source, target, from, to) in [
            ("一只猫坐", "一只狗坐", "猫", "狗"),
            ("红猫", "狗", "红猫", "狗"),
            ("猫", "猫狗", "猫", "猫狗"),
            ("กีก", "กัก", "กี", "กั"),
            ("กัก", "ขัก", "กั", "ขั"),
            ("catfish", "catnip", "catfish", "catnip"),
        ] {
            let pairs = changed(source, target);
            let words: Vec<_> = pairs
                .iter()
                .map(|(a, b)| (&a.word[..], &b.word[..]))
                .collect();
            assert_eq!(words, [(from, to)]);
            assert_eq!(new(source, target), [to]);
        }
        // Every character has three bytes, none of them merged.
        assert_eq!(new_tokens("一只猫坐", "一只狗坐"), [[7, 8, 9]]);
    }

    #[test]
    fn prompts_of_different_lengths_have_no_changed_pairs() {
        assert!(changed("the cat", "the red dog").is_empty());
        assert!(!same_word_count(&prompt("the cat"), &prompt("the red dog")));
        assert!(same_word_count(&prompt(" the  cat"), &prompt("red dog ")));
    }

    #[test]
    fn words_that_come_or_go_differ_without_a_counterpart() {
        let differing = |source, target| {
            let pairs = differing_words(&prompt(source), &prompt(target)).into_iter();
            let pairs = pairs.map(|(from, to)| (from.word, to.word));
            pairs.collect::<Vec<_>>()
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(differing("the cat", "the dog"), [pair("cat", "dog")]);
        assert_eq!(
            differing("a cat", "a red cat on a mat"),
            [pair("", "red"), pair("", "mat")]
        );
        assert_eq!(
            differing("a red cat", "a dog"),
            [pair("red", ""), pair("cat", ""), pair("", "dog")]
        );
        assert!(differing("a cat", "the cat and").is_empty());
    }

    #[test]
    fn pairs_beyond_the_context_are_left_out() {
        let long = "woodpecker ".repeat(5);
        assert!(changed(&format!("{long}cat"), &format!("{long}dog")).is_empty());
    }
}
