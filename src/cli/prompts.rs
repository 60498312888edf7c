//! What of the prompts a model does not read.

use anyhow::Result;
use icd::{model::Model, prompt::Word};

use super::Console;

/// Words that are named of those that are not read.
const NAMED: usize = 8;

/// Tells which words lie beyond the tokens that the model reads of a prompt.
pub(super) fn tell_unread<'a>(
    model: &Model,
    prompts: impl IntoIterator<Item = &'a str>,
    console: &Console,
) -> Result<()> {
    let tokenizers = model.tokenizers()?;
    for prompt in prompts {
        let prompt = tokenizers.read(prompt)?;
        let unread = prompt.words().iter().filter(|word| word.tokens.is_empty());
        let unread: Vec<&Word> = unread.collect();
        if unread.is_empty() {
            continue;
        }
        let named = unread.iter().take(NAMED).map(|word| word.text.as_str());
        let named = named.collect::<Vec<_>>().join(" ");
        let more = if unread.len() > NAMED { " .." } else { "" };
        console.note(&format!(
            "the model reads {} tokens of a prompt and does not read: {named}{more}",
            tokenizers.context()
        ));
    }
    Ok(())
}
