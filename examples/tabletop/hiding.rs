//! Words that are hidden while a UNet learns, so that it looks each thing up at the words that
//! say it.
//!
//! The text encoder reads from left to right: the states of `and`, of the end and of what is said
//! later know all that was said before, and a UNet that may choose takes any of them. It is made
//! to take a thing's own words where the others are often not there.

use candle_core::{Device, Tensor};
use icd::prompt::{Prompt, Word};
use rand::Rng;

use super::world::Dice;

/// The share of captions of which words are hidden.
const HIDDEN: f64 = 0.75;
/// The share of those that are also cut behind one of their words.
const CUT: f64 = 0.4;
/// Words that say nothing themselves.
const FUNCTION_WORDS: [&str; 13] = [
    "a", "an", "and", "at", "before", "in", "life", "of", "on", "photo", "still", "the", "with",
];

/// Which tokens of captions can be seen, (captions, tokens, 1): 1, or 0 where one is hidden.
pub(crate) fn visible(prompts: &[Prompt], dice: &mut Dice) -> icd::Result<Tensor> {
    let rows: Vec<_> = prompts.iter().map(|prompt| row(prompt, dice)).collect();
    Ok(Tensor::new(rows, &Device::Cpu)?.unsqueeze(2)?)
}

/// All tokens, or those of the start and of the words that say something, up to some word. A
/// prompt without words is seen as it is: it stands for no caption.
fn row(prompt: &Prompt, dice: &mut Dice) -> Vec<f32> {
    let tokens = prompt.ids().len();
    let says = |word: &&Word| !FUNCTION_WORDS.contains(&word.text.as_str());
    let saying: Vec<_> = prompt.words().iter().filter(says).collect();
    if saying.is_empty() || !dice.random_bool(HIDDEN) {
        return vec![1.0; tokens];
    }
    let count = match dice.random_bool(CUT) {
        true => dice.random_range(1..=saying.len()),
        false => saying.len(),
    };
    let mut row = vec![0.0; tokens];
    row[0] = 1.0;
    for word in &saying[..count] {
        row[word.tokens.clone()].fill(1.0);
    }
    row
}

/// Text states (captions, tokens, width) with the start's in place of the hidden ones: it knows
/// no word.
pub(crate) fn hide(states: &Tensor, visible: &Tensor) -> icd::Result<Tensor> {
    let start = states.narrow(1, 0, 1)?;
    let known = states.broadcast_sub(&start)?.broadcast_mul(visible)?;
    Ok(known.broadcast_add(&start)?)
}
