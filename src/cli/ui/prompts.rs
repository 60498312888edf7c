//! Warnings about prompts: words beyond the model's context length, and changes that the
//! model does not read.

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

/// Warns about targets that are written otherwise than the source, the first prompt, but
/// read the same: what changes is beyond the token limit, or is case or white space.
pub(crate) fn warn_read_alike(prompts: &[Prompt], console: &Console) {
    let Some((source, targets)) = prompts.split_first() else {
        return;
    };
    let differs = |target: &&Prompt| target.text() != source.text();
    let targets = targets.iter().filter(differs);
    for target in targets.filter(|target| target.reads_like(source)) {
        console.note(&format!(
            "warning: the model reads the same {} tokens in the target prompt {:?} as in the \
             source prompt, so nothing changes",
            target.length(),
            target.text()
        ));
    }
}
