//! Words of prompts beyond the model's context.

use icd::prompt::Prompt;

use crate::cli::Console;

/// How many words a warning lists.
const NAMED: usize = 8;

/// Warns of words beyond the tokens that the model reads of each prompt.
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
