//! The special tokens (start, end, unknown, padding) of `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::AddedToken;

use crate::{
    error::{Error, Result},
    io::Source,
};

/// Ids of the special tokens of a prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) pad: u32,
}

/// The special tokens, and further tokens added by the configuration.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) start: AddedToken,
    pub(super) end: AddedToken,
    pub(super) unknown: AddedToken,
    pub(super) pad: AddedToken,
    pub(super) added: Vec<AddedToken>,
}

impl Special {
    /// Reads `tokenizer_config.json`; the default is CLIP's tokens, and the end token for
    /// a missing pad token.
    pub(super) fn read(config: Option<&Source>) -> Result<Self> {
        let config = config.map_or_else(|| Ok(Config::default()), Config::read)?;
        let start = config.named(config.bos_token.as_ref(), "<|startoftext|>");
        let end = config.named(config.eos_token.as_ref(), "<|endoftext|>");
        let unknown = config.named(config.unk_token.as_ref(), &end.content);
        let pad = config.named(config.pad_token.as_ref(), &end.content);
        let added = config.added_tokens_decoder.into_values();
        Ok(Self {
            start,
            end,
            unknown,
            pad,
            added: added.map(Added::token).collect(),
        })
    }
}

/// The fields of `tokenizer_config.json` that name tokens.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    bos_token: Option<Name>,
    eos_token: Option<Name>,
    unk_token: Option<Name>,
    pad_token: Option<Name>,
    added_tokens_decoder: BTreeMap<u32, Added>,
}

/// A token, with or without matching rules.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Name {
    Bare(String),
    Ruled(Added),
}

/// A token with matching rules.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the file")]
struct Added {
    content: String,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
    normalized: bool,
}

impl Config {
    fn read(file: &Source) -> Result<Self> {
        serde_json::from_str(&file.text()?)
            .map_err(|reason| Error::config(file, format!("not a tokenizer's settings: {reason}")))
    }

    /// The token named by a field, with the rules from the list of added tokens if it is
    /// listed there.
    fn named(&self, field: Option<&Name>, default: &str) -> AddedToken {
        let bare = |content| Added {
            content,
            ..Added::default()
        };
        let token = match field.cloned() {
            None => bare(default.to_owned()),
            Some(Name::Bare(content)) => bare(content),
            Some(Name::Ruled(token)) => token,
        };
        let mut added = self.added_tokens_decoder.values();
        let listed = added.find(|added| added.content == token.content);
        listed.cloned().unwrap_or(token).token()
    }
}

impl Added {
    fn token(self) -> AddedToken {
        AddedToken::from(self.content, true)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .single_word(self.single_word)
            .normalized(self.normalized)
    }
}
