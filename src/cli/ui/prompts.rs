//! Warnings about prompt words beyond the model's context length.

use icd::prompt::Prompt;

use crate::cli::Console;

/// The maximum number of words that a warning lists.
const NAMED: usize = 8;

/// Warns about words that are truncated because a prompt exceeds the token limit.
pub(crate) fn warn_unread(prompts: &[Prompt], console: &Console) {
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
            "prompts are cut after {} tokens; ignored: {named}{more}",
            prompt.context()
        ));
    }
}
