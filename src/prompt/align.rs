//! Correspondence between the tokens of two prompts, for editing cross-attention maps
//! (prompt-to-prompt, Hertz et al. 2022, arXiv 2208.01626).

use std::ops::Range;

use super::{Prompt, words::same_word_count};
use crate::error::{Error, Result};

/// The source token of every target token.
///
/// An edited map is `source[map] * keep + target * (1 - keep)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Refine {
    /// Source position of each target position, including padding; the last position
    /// for tokens without a source token.
    pub map: Vec<usize>,
    /// 1 for target positions with a source token, 0 for new ones.
    pub keep: Vec<f32>,
}

/// The distribution of the source's attention over the target's tokens, for prompts
/// with the same number of words.
///
/// An edited map is `source @ matrix`.
#[derive(Clone, Debug, PartialEq)]
pub struct Replace {
    /// In row-major order: (source context, target context).
    pub matrix: Vec<f32>,
    /// Number of rows and columns.
    pub shape: (usize, usize),
}

impl Refine {
    /// Aligns the prompts' tokens globally (Needleman and Wunsch 1970; gap 0,
    /// match 1, mismatch -1). Positions after the target's end token map to
    /// themselves.
    pub fn new(source: &Prompt, target: &Prompt) -> Self {
        let last = source.context() - 1;
        let aligned = align(source.tokens(), target.tokens());
        let padding = (target.length()..target.context()).map(|position| position.min(last));
        let map = aligned.iter().map(|from| from.unwrap_or(last));
        let keep = aligned.iter().map(|from| f32::from(from.is_some()));
        let mut keep: Vec<f32> = keep.collect();
        keep.resize(target.context(), 1.);
        let map = map.chain(padding).collect();
        Self { map, keep }
    }
}

impl Replace {
    /// Maps each replaced word's tokens to those of the word at the same place.
    ///
    /// Between replaced words the positions of both prompts advance together; after the
    /// last one every position maps to itself. Words without tokens due to truncation,
    /// in either prompt, are skipped.
    pub fn new(source: &Prompt, target: &Prompt) -> Result<Self> {
        if !same_word_count(source, target) {
            let reason = format!(
                "replacing words needs equally many words in both prompts, but this one has {} and \
                 the source {:?} has {}; use refine for prompts of different lengths",
                target.words().len(),
                source.text(),
                source.words().len(),
            );
            return Err(Error::prompt(target.text(), reason));
        }
        let shape = (source.context(), target.context());
        let mut this = Self {
            matrix: vec![0.; shape.0 * shape.1],
            shape,
        };
        let (mut row, mut column) = (0, 0);
        for (from, to) in replaced(source, target) {
            this.pair(row..from.start, column..to.start);
            this.spread(&from, &to);
            (row, column) = (from.end, to.end);
        }
        // Both prompts advance until the first of them ends.
        let rest = (row..shape.0).zip(column..shape.1);
        rest.for_each(|(_, position)| this.set(position, position, 1.));
        Ok(this)
    }

    /// Token by token.
    fn pair(&mut self, rows: Range<usize>, columns: Range<usize>) {
        rows.zip(columns)
            .for_each(|(row, column)| self.set(row, column, 1.));
    }

    /// Token by token for words with equally many tokens, else every source token
    /// equally over the target's tokens.
    fn spread(&mut self, source: &Range<usize>, target: &Range<usize>) {
        if source.len() == target.len() {
            return self.pair(source.clone(), target.clone());
        }
        let share = (1. / target.len() as f64) as f32;
        for column in target.clone() {
            source.clone().for_each(|row| self.set(row, column, share));
        }
    }

    fn set(&mut self, row: usize, column: usize, value: f32) {
        if row < self.shape.0 && column < self.shape.1 {
            self.matrix[row * self.shape.1 + column] = value;
        }
    }
}

/// The source token (or word) aligned with each target token.
///
/// Of equally good alignments, seen from the end, one that skips target tokens is
/// preferred to one that skips source tokens, and that to a pair.
pub(super) fn align<T: PartialEq>(source: &[T], target: &[T]) -> Vec<Option<usize>> {
    let score = scores(source, target);
    let mut aligned = vec![None; target.len()];
    let (mut i, mut j) = (source.len(), target.len());
    while i > 0 && j > 0 {
        if score[i][j] == score[i][j - 1] {
            j -= 1;
        } else if score[i][j] == score[i - 1][j] {
            i -= 1;
        } else {
            (i, j) = (i - 1, j - 1);
            aligned[j] = Some(i);
        }
    }
    aligned
}

/// Best score of every pair of prefixes: (source + 1, target + 1).
fn scores<T: PartialEq>(source: &[T], target: &[T]) -> Vec<Vec<i32>> {
    let mut score = vec![vec![0; target.len() + 1]; source.len() + 1];
    for (i, from) in source.iter().enumerate() {
        for (j, to) in target.iter().enumerate() {
            let pair = score[i][j] + if from == to { 1 } else { -1 };
            score[i + 1][j + 1] = pair.max(score[i][j + 1]).max(score[i + 1][j]);
        }
    }
    score
}

/// Token positions of the words that differ, if they have tokens in both prompts.
fn replaced(source: &Prompt, target: &Prompt) -> Vec<(Range<usize>, Range<usize>)> {
    let pairs = source.words().iter().zip(target.words());
    pairs
        .filter(|(source, target)| source.text != target.text)
        .filter(|(source, target)| !source.tokens.is_empty() && !target.tokens.is_empty())
        .map(|(source, target)| (source.tokens.clone(), target.tokens.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::prompt::tiny::{CONTEXT, prompt};

    // The golden values come from the reference code's `seq_aligner`, run with
    // `CLIPTokenizer(vocab=.., merges=..)` on the tiny vocabulary and
    // `max_len=16`; its -1 is the last position here.

    const TAIL: [usize; 8] = [8, 9, 10, 11, 12, 13, 14, 15];

    /// (row, column, value) of everything that is not zero.
    fn entries(replace: &Replace) -> Vec<(usize, usize, f32)> {
        let cells = (0..)
            .zip(&replace.matrix)
            .filter(|(_, value)| **value != 0.);
        cells
            .map(|(cell, &value)| (cell / CONTEXT, cell % CONTEXT, value))
            .collect()
    }

    fn ones(cells: impl IntoIterator<Item = (usize, usize)>) -> Vec<(usize, usize, f32)> {
        cells
            .into_iter()
            .map(|(row, column)| (row, column, 1.))
            .collect()
    }

    fn replace(source: &str, target: &str) -> Replace {
        Replace::new(&prompt(source), &prompt(target)).unwrap()
    }

    #[test]
    fn equal_prompts_align_to_the_identity() {
        let same = prompt("the cat on the palm tree");
        let refine = Refine::new(&same, &same);
        assert_eq!(refine.map, (0..CONTEXT).collect::<Vec<_>>());
        assert_eq!(refine.keep, [1.; CONTEXT]);
        let replace = Replace::new(&same, &same).unwrap();
        assert_eq!(entries(&replace), ones((0..CONTEXT).map(|i| (i, i))));
    }

    #[test]
    fn new_words_have_no_source_and_the_rest_keeps_its_own() {
        // get_mapper("the cat on the tree", "the dog on the palm tree")
        let refine = Refine::new(
            &prompt("the cat on the tree"),
            &prompt("the dog on the palm tree"),
        );
        assert_eq!(refine.map[..8], [0, 1, 15, 3, 4, 15, 5, 6]);
        assert_eq!(refine.map[8..], TAIL);
        assert_eq!(refine.keep[..8], [1., 1., 0., 1., 1., 0., 1., 1.]);
        assert_eq!(refine.keep[8..], [1.; 8]);
    }

    #[test]
    fn removed_words_are_skipped_and_padding_stands_for_itself() {
        // get_mapper("the palm tree on the hat", "the tree")
        let refine = Refine::new(&prompt("the palm tree on the hat"), &prompt("the tree"));
        assert_eq!(refine.map[..8], [0, 1, 3, 7, 4, 5, 6, 7]);
        assert_eq!(refine.keep, [1.; CONTEXT]);
    }

    #[test]
    fn a_mismatch_is_a_gap_in_both_prompts() {
        // get_mapper("red woodpecker on the tree", "red dog on the hat")
        let refine = Refine::new(
            &prompt("red woodpecker on the tree"),
            &prompt("red dog on the hat"),
        );
        assert_eq!(refine.map[..8], [0, 1, 15, 5, 6, 15, 8, 7]);
        assert_eq!(refine.keep[..8], [1., 1., 0., 1., 1., 0., 1., 1.]);
    }

    #[test]
    fn words_of_as_many_tokens_are_replaced_token_by_token() {
        let replace = replace("the cat on the tree", "the dog on the hat");
        assert_eq!(entries(&replace), ones((0..CONTEXT).map(|i| (i, i))));
    }

    #[test]
    fn a_longer_word_shares_the_attention_of_the_one_it_replaces() {
        // get_replacement_mapper_("a dog on the tree", "a woodpecker on the tree")
        let replace = replace("a dog on the tree", "a woodpecker on the tree");
        let mut expected = ones([(0, 0), (1, 1)]);
        expected.extend([2, 3, 4].map(|column| (2, column, 1. / 3.)));
        expected.extend(ones((5..CONTEXT).map(|i| (i, i))));
        assert_eq!(entries(&replace), expected);
    }

    #[test]
    fn between_replaced_words_both_prompts_advance_and_afterwards_stand_still() {
        // get_replacement_mapper_("a woodpecker on the tree", "a dog on the hat")
        let replace = replace("a woodpecker on the tree", "a dog on the hat");
        let mut expected = ones([
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 2),
            (5, 3),
            (6, 4),
            (7, 5),
        ]);
        expected.extend(ones((6..=13).map(|i| (i, i))));
        expected.sort_by_key(|&(row, column, _)| (row, column));
        assert_eq!(entries(&replace), expected);
    }

    #[test]
    fn words_beyond_the_context_are_passed_over() {
        let long = "woodpecker ".repeat(4);
        let cut = replace(
            &format!("{long}the cat red hat"),
            &format!("{long}the dog on tree"),
        );
        assert_eq!(entries(&cut), ones((0..CONTEXT).map(|i| (i, i))));
    }

    #[test]
    fn a_word_cut_off_in_one_prompt_is_passed_over_too() {
        // Five woodpeckers fill the context, the fifth without its last token.
        let [few, many] = ["the ".repeat(6), "woodpecker ".repeat(6)];
        let mut gathered = ones((1..15).map(|row| (row, usize::div_ceil(row, 3))));
        gathered.insert(0, (0, 0, 1.));
        // Between the last replaced words both prompts advance once.
        gathered.insert(7, (6, 6, 1.));
        assert_eq!(entries(&replace(&many, &few)), gathered);
        let spread = replace(&few, &many);
        let last: Vec<_> = entries(&spread)
            .into_iter()
            .filter(|entry| entry.0 >= 5)
            .collect();
        assert_eq!(last, [(5, 13, 0.5), (5, 14, 0.5), (15, 15, 1.)]);
    }

    #[test]
    fn unequal_word_counts_are_refused_with_both_counts() {
        let error = Replace::new(&prompt("the red cat"), &prompt("the cat")).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("prompt \"the cat\": "), "{message}");
        assert!(
            message.contains("has 2") && message.contains("has 3"),
            "{message}"
        );
        assert!(message.contains("refine"), "{message}");
    }

    #[test]
    fn contexts_may_differ() {
        let tokenizer = crate::prompt::tiny::Files::new().open(None).unwrap();
        let [short, long] = [5, 9].map(|context| tokenizer.encode("the cat", context).unwrap());
        let refine = Refine::new(&short, &long);
        assert_eq!(refine.map, [0, 1, 2, 3, 4, 4, 4, 4, 4]);
        let replace = Replace::new(&short, &long).unwrap();
        assert_eq!((replace.matrix.len(), replace.shape), (45, (5, 9)));
    }
}
