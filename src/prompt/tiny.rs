//! A vocabulary small enough to write down, for tests: every byte, every byte
//! at a word's end, a few merges, and the two special tokens.
#![expect(clippy::unwrap_used, reason = "test helper")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use tempfile::TempDir;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{Prompt, Tokenizer};
use crate::io::Source;

/// The context that [`prompt`] encodes for.
pub(super) const CONTEXT: usize = 16;

/// Enough to spell `the`, `on`, `cat`, `dog`, `hat`, `red`, `tree`, `palm` as
/// one token, `café` as two and `woodpecker` as three.
const MERGES: &str = "#version: 0.2
t h
th e</w>
o n</w>
c a
ca t</w>
d o
do g</w>
h a
ha t</w>
r e
re d</w>
t re
tre e</w>
p a
pa l
pal m</w>
w o
wo o
woo d
p e
pe c
pec k
e r</w>
ca f
Ã ©</w>
' s</w>
";

/// The files of the vocabulary, in a folder that goes with the value.
pub(super) struct Files {
    folder: TempDir,
}

impl Files {
    /// Ids: bytes 0 to 255 in the order of their characters (`!` is 0), bytes
    /// at a word's end 256 to 511, the merges, the start and the end token.
    pub(super) fn new() -> Self {
        let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        bytes.sort_unstable();
        let mut tokens: Vec<String> = bytes.iter().map(char::to_string).collect();
        tokens.extend(bytes.iter().map(|byte| format!("{byte}</w>")));
        tokens.extend(MERGES.lines().skip(1).map(|merge| merge.replace(' ', "")));
        tokens.extend(["<|startoftext|>", "<|endoftext|>"].map(str::to_owned));
        let vocab: BTreeMap<_, u32> = tokens.into_iter().zip(0..).collect();
        let files = Self {
            folder: TempDir::new().unwrap(),
        };
        files.write("vocab.json", &serde_json::to_string(&vocab).unwrap());
        files.write("merges.txt", MERGES);
        files
    }

    /// Writes a file beside the vocabulary.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tokenizer of these files, with a `tokenizer_config.json` if given.
    pub(super) fn open(&self, config: Option<&str>) -> crate::error::Result<Tokenizer> {
        let config = config.map(|text| self.write("tokenizer_config.json", text));
        Tokenizer::from_bpe(
            &self.path("vocab.json").into(),
            &self.path("merges.txt").into(),
            config.map(Source::from).as_ref(),
        )
    }
}

/// `text` in the tiny vocabulary, [`CONTEXT`] tokens long.
pub(super) fn prompt(text: &str) -> Prompt {
    Files::new()
        .open(None)
        .unwrap()
        .encode(text, CONTEXT)
        .unwrap()
}
