//! The tokens with a role: start, end, unknown and padding, as
//! `tokenizer_config.json` names them.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::AddedToken;

use crate::{
    error::{Error, Result},
    source::Source,
};

/// Ids of the tokens that frame and pad a prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) pad: u32,
}

/// The tokens with a role, and further ones that the configuration adds.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) start: AddedToken,
    pub(super) end: AddedToken,
    pub(super) unknown: AddedToken,
    pub(super) pad: AddedToken,
    pub(super) added: Vec<AddedToken>,
}

impl Special {
    /// What the `tokenizer_config.json` at `config` says; CLIP's own names for
    /// what it leaves out, and the end token in place of a missing pad token.
    pub(super) fn read(config: Option<&Source>) -> Result<Self> {
        let config = config.map_or_else(|| Ok(Config::default()), Config::read)?;
        let start = config.named(config.bos_token.as_ref(), "<|startoftext|>");
        let end = config.named(config.eos_token.as_ref(), "<|endoftext|>");
        let unknown = config.named(config.unk_token.as_ref(), &end.content);
        let pad = config.named(config.pad_token.as_ref(), &end.content);
        let added = config
            .added_tokens_decoder
            .into_values()
            .map(Added::token)
            .collect();
        Ok(Self {
            start,
            end,
            unknown,
            pad,
            added,
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

/// A token's name, bare or with the rules for matching it in a text.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Name {
    Bare(String),
    Ruled(Added),
}

/// A token and the rules for matching it in a text.
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

    /// The token that a role's field names, with the rules from the list of
    /// added tokens where it stands there too.
    fn named(&self, field: Option<&Name>, default: &str) -> AddedToken {
        let token = match field.cloned() {
            None => Added {
                content: default.to_owned(),
                ..Added::default()
            },
            Some(Name::Bare(content)) => Added {
                content,
                ..Added::default()
            },
            Some(Name::Ruled(token)) => token,
        };
        let listed = self
            .added_tokens_decoder
            .values()
            .find(|added| added.content == token.content);
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
