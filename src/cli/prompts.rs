//! What of the prompts a model does not read.

use icd::prompt::Prompt;

use super::Console;

/// Words that are named of those that are not read.
const NAMED: usize = 8;

/// Tells which words lie beyond the tokens that a model reads of each prompt.
pub(super) fn tell_unread(prompts: &[Prompt], console: &Console) {
    for prompt in prompts {
        let words = prompt.words().iter();
        let unread = words.filter(|word| word.tokens.is_empty());
        let unread: Vec<_> = unread.map(|word| word.text.as_str()).collect();
        if unread.is_empty() {
            continue;
        }
        let named = unread[..unread.len().min(NAMED)].join(" ");
        let more = if unread.len() > NAMED { " .." } else { "" };
        console.note(&format!(
            "the model reads {} tokens of a prompt and does not read: {named}{more}",
            prompt.context()
        ));
    }
}
