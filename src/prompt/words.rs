//! Differences between two prompts in words, as in the reference's batch script.

use super::{Prompt, Word};

/// The words of the target that are not in the source, in order and without duplicates,
/// except stop words, punctuation and words beyond the context.
///
/// Case and the punctuation around words are ignored in comparisons; the words are
/// returned without that punctuation, suitable for [`Prompt::find`].
pub fn new_words(source: &Prompt, target: &Prompt) -> Vec<String> {
    let mut known: Vec<String> = source.words().iter().map(Word::folded).collect();
    let mut new = Vec::new();
    for word in target.words().iter().filter(|word| is_content(word)) {
        let folded = word.folded();
        if !known.contains(&folded) {
            new.push(word.core().to_owned());
            known.push(folded);
        }
    }
    new
}

/// Whether the prompts have equally many words.
pub fn same_word_count(source: &Prompt, target: &Prompt) -> bool {
    source.words().len() == target.words().len()
}

/// The (source, target) words that differ at the same place in prompts with equally many
/// words; empty if the counts differ.
///
/// Compared and returned as in [`new_words`], including stop words, without pairs with a
/// word beyond the context.
pub fn changed_pairs(source: &Prompt, target: &Prompt) -> Vec<(String, String)> {
    if !same_word_count(source, target) {
        return Vec::new();
    }
    let pairs = source.words().iter().zip(target.words());
    pairs
        .filter(|(source, target)| !source.tokens.is_empty() && !target.tokens.is_empty())
        .filter(|(source, target)| source.folded() != target.folded())
        .map(|(source, target)| (source.core().to_owned(), target.core().to_owned()))
        .collect()
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
        new_words(&prompt(source), &prompt(target))
    }

    fn changed(source: &str, target: &str) -> Vec<(String, String)> {
        changed_pairs(&prompt(source), &prompt(target))
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn new_words_come_in_order_and_once_without_stop_words() {
        assert_eq!(new("a cat", "a red hat on the red cat"), ["red", "hat"]);
        assert!(new("a cat", "the cat isn't in A cat").is_empty());
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
        for word in new_words(&prompt("the cat"), &target) {
            assert_eq!(
                target.find(&word).map(|tokens| tokens.len()).ok(),
                Some(1),
                "{word}"
            );
        }
    }

    #[test]
    fn changed_pairs_stand_at_the_same_place() {
        let pairs = changed("the cat, on the tree", "The dog, on a tree");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect();
        assert_eq!(pairs, [("cat", "dog"), ("the", "a")]);
    }

    #[test]
    fn prompts_of_different_lengths_have_no_changed_pairs() {
        assert!(changed("the cat", "the red dog").is_empty());
        assert!(!same_word_count(&prompt("the cat"), &prompt("the red dog")));
        assert!(same_word_count(&prompt(" the  cat"), &prompt("red dog ")));
    }

    #[test]
    fn pairs_beyond_the_context_are_left_out() {
        let long = "woodpecker ".repeat(5);
        assert!(changed(&format!("{long}cat"), &format!("{long}dog")).is_empty());
    }
}
