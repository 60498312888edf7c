//! Warnings about prompts: what the model does not read, and what asks for nothing.

use anyhow::Result;
use icd::{model::Model, prompt::Prompt};

use crate::cli::Console;

/// The maximum number of words that a warning lists.
const NAMED: usize = 8;

/// Warns about the source and target prompts of an edit.
pub(crate) fn warn_of_edit(model: &Model, prompts: &[Prompt], console: &Console) -> Result<()> {
    warn_of_prompts(model, prompts, console)?;
    let Some((source, targets)) = prompts.split_first() else {
        return Ok(());
    };
    // A style LoRA changes the picture under the same prompt.
    if !model.has_loras() && targets.iter().any(|target| target.reads_like(source)) {
        console.warn("--tgt-prompt reads like the source prompt: nothing changes");
    }
    let is_repeated = |(index, target)| {
        targets[..index]
            .iter()
            .any(|other| other.reads_like(target))
    };
    if targets.iter().enumerate().any(is_repeated) {
        console.warn("--tgt-prompt: two of them read alike");
    }
    Ok(())
}

/// Warns about prompts that are empty, too long, or have words that the model never saw.
pub(crate) fn warn_of_prompts(model: &Model, prompts: &[Prompt], console: &Console) -> Result<()> {
    if prompts.iter().any(is_empty) {
        console.warn("a prompt is empty");
    }
    let mut unseen = Vec::new();
    for prompt in prompts {
        warn_unread(prompt, console);
        unseen.extend(model.unseen_words(prompt)?);
    }
    unseen.sort();
    unseen.dedup();
    if !unseen.is_empty() {
        console.warn(&format!("the model never saw: {}", named(&unseen, ", ")));
    }
    Ok(())
}

/// Whether there are no tokens between start and end.
fn is_empty(prompt: &Prompt) -> bool {
    prompt.length() == 2
}

/// Warns about words that are truncated because a prompt exceeds the token limit.
fn warn_unread(prompt: &Prompt, console: &Console) {
    let words = prompt.words().iter();
    let unread = words.filter(|word| word.tokens.is_empty());
    let unread: Vec<_> = unread.map(|word| word.text.clone()).collect();
    if !unread.is_empty() && !is_empty(prompt) {
        console.warn(&format!(
            "prompts are cut after {} tokens; ignored: {}",
            prompt.context(),
            named(&unread, " ")
        ));
    }
}

/// The first few of some words.
fn named(words: &[String], separator: &str) -> String {
    let more = (words.len() > NAMED).then_some("..");
    let words = words.iter().take(NAMED).map(String::as_str);
    words.chain(more).collect::<Vec<_>>().join(separator)
}
