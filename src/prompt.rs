//! Tokenized prompts: token ids of a fixed length, and the tokens of each word.
//!
//! A [`Tokenizer`] creates [`Prompt`]s; [`align`] relates two of them token by
//! token, [`words`] word by word.

pub mod align;
mod bpe;
mod characters;
mod find;
mod special;
#[cfg(test)]
mod tiny;
mod tokenizer;
pub mod words;

use std::ops::Range;

use characters::is_invisible;

pub use align::{Refine, Replace};
pub use tokenizer::Tokenizer;

/// A prompt's token ids, enclosed by the start and end tokens and padded to the
/// text encoder's context, with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    ids: Vec<u32>,
    /// Byte range in `text` of each content token.
    spans: Vec<Range<usize>>,
    words: Vec<Word>,
    end: usize,
}

/// A word of the prompt, delimited by white space. Characters that are not seen, such as a
/// byte order mark, make no word by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word as written, including punctuation.
    pub text: String,
    /// Positions of its tokens in the prompt's ids; empty if the word is beyond the
    /// context.
    pub tokens: Range<usize>,
    /// Byte range in the prompt.
    span: Range<usize>,
}

impl Prompt {
    /// The prompt as given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All ids: start, content, end, padding up to the context.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids without the padding, from the start to the end token.
    pub fn tokens(&self) -> &[u32] {
        &self.ids[..self.length()]
    }

    /// Number of ids, including padding.
    pub fn context(&self) -> usize {
        self.ids.len()
    }

    /// Number of tokens after truncation, including start and end.
    pub fn length(&self) -> usize {
        self.spans.len() + 2
    }

    /// Position of the first end token, the position of CLIP's pooled output.
    ///
    /// It is the last of [`tokens`](Self::tokens), unless the text itself
    /// contains the end token.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Whether a model reads the same in both prompts: they have the same ids, although
    /// their texts may differ, as beyond the context.
    pub fn reads_like(&self, other: &Self) -> bool {
        self.ids == other.ids
    }

    /// The words in order.
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// Truncates `tokens` (ids and their byte ranges in `text`) to the context and adds
    /// the `special` ids.
    fn new(
        text: &str,
        tokens: &[(u32, Range<usize>)],
        special: &special::Ids,
        context: usize,
    ) -> Self {
        let kept = tokens.len().min(context.saturating_sub(2));
        let mut ids = vec![special.start];
        ids.extend(tokens[..kept].iter().map(|(id, _)| id));
        ids.push(special.end);
        let end = ids.iter().position(|&id| id == special.end);
        ids.resize(context, special.pad);
        let spans = tokens[..kept].iter().map(|(_, span)| span.clone());
        let spans: Vec<_> = spans.collect();
        let words = words_of(text).map(|word| {
            let start = word.as_ptr() as usize - text.as_ptr() as usize;
            let span = start..start + word.len();
            Word {
                text: word.to_owned(),
                tokens: overlapping(&spans, &span),
                span,
            }
        });
        Self {
            text: text.to_owned(),
            ids,
            words: words.collect(),
            spans,
            end: end.unwrap_or(kept + 1),
        }
    }
}

/// The words of a text: what stands between white space and is seen.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split_whitespace();
    words.filter(|word| !word.chars().all(is_invisible))
}

/// Positions of the tokens whose byte ranges overlap `span`.
///
/// Byte ranges remain valid whatever the tokenizer did to the text: composed
/// accents, characters of several tokens, runs of white space.
fn overlapping(spans: &[Range<usize>], span: &Range<usize>) -> Range<usize> {
    // Position 0 is the start token.
    let mut hits = (1..)
        .zip(spans)
        .filter(|(_, token)| token.start < span.end && token.end > span.start)
        .map(|(position, _)| position);
    hits.next()
        .map_or(0..0, |first| first..hits.last().unwrap_or(first) + 1)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::{Prompt, tiny::prompt};

    fn words(prompt: &Prompt) -> Vec<(&str, Range<usize>)> {
        prompt
            .words()
            .iter()
            .map(|word| (word.text.as_str(), word.tokens.clone()))
            .collect()
    }

    #[test]
    fn words_own_the_tokens_of_their_letters() {
        let prompt = prompt("the woodpecker on the tree");
        let expected = [
            ("the", 1..2),
            ("woodpecker", 2..5),
            ("on", 5..6),
            ("the", 6..7),
        ];
        assert_eq!(words(&prompt)[..4], expected);
    }

    #[test]
    fn double_spaces_emoji_and_ligatures_shift_no_word() {
        // Token counts by CLIPTokenizer on the tiny vocabulary: an emoji has
        // four bytes, the ligature three, the dotted capital I three.
        let prompt = prompt(" 👍  ﬁ\tİ  cat,\u{a0}hat ");
        let expected = [
            ("👍", 1..5),
            ("ﬁ", 5..8),
            ("İ", 8..11),
            ("cat,", 11..13),
            ("hat", 13..14),
        ];
        assert_eq!(words(&prompt), expected);
    }

    #[test]
    fn composed_accents_belong_to_the_word_as_written() {
        let prompt = prompt("cafe\u{301} hat");
        assert_eq!(words(&prompt), [("cafe\u{301}", 1..3), ("hat", 3..4)]);
    }

    #[test]
    fn long_prompts_lose_their_end_but_not_the_end_token() {
        let text = format!("{}hat", "woodpecker ".repeat(5));
        let prompt = prompt(&text);
        assert_eq!((prompt.length(), prompt.end()), (16, 15));
        assert_eq!(prompt.ids()[15], 539);
        assert_eq!(words(&prompt)[4..], [("woodpecker", 13..15), ("hat", 0..0)]);
    }

    #[test]
    fn prompts_that_fit_lose_nothing() {
        let prompt = prompt(&"woodpecker ".repeat(4));
        assert_eq!((prompt.length(), words(&prompt)[3].1.clone()), (14, 10..13));
    }

    #[test]
    fn the_first_end_token_is_where_the_text_spells_it() {
        let prompt = prompt("a <|endoftext|> cat");
        assert_eq!((prompt.end(), prompt.length()), (2, 5));
        assert_eq!(words(&prompt)[1], ("<|endoftext|>", 2..3));
    }

    #[test]
    fn what_is_not_seen_is_no_word() {
        let prompt = prompt("\u{feff} the \u{200b} cat");
        let expected: Vec<_> = prompt.words().iter().map(|word| &word.text[..]).collect();
        assert_eq!(expected, ["the", "cat"]);
    }

    #[test]
    fn prompts_that_differ_beyond_the_context_read_alike() {
        let long = "woodpecker ".repeat(5);
        let [cat, dog] = ["cat", "dog"].map(|word| prompt(&format!("{long}{word}")));
        assert!(cat.reads_like(&dog) && cat != dog);
        assert!(prompt("the CAT").reads_like(&prompt("the cat")));
        assert!(!prompt("the cat").reads_like(&prompt("the dog")));
    }

    #[test]
    fn no_words_are_a_prompt_too() {
        for text in ["", "  \n"] {
            let prompt = prompt(text);
            assert_eq!((prompt.tokens(), prompt.end()), (&[538, 539][..], 1));
            assert!(prompt.words().is_empty());
        }
    }
}
