//! CLIP's tokenizer: byte-level byte-pair encoding with an end-of-word suffix, as
//! `CLIPTokenizer` in the Python package transformers.

use std::collections::HashMap;

use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{self, Lowercase, NFC, replace::ReplacePattern},
    pre_tokenizers::{
        self,
        byte_level::ByteLevel,
        split::{Split, SplitPattern},
    },
};

use crate::{
    error::{Error, Result},
    io::Source,
};

/// The pieces that CLIP splits a lower-case text into: literal special tokens,
/// English contractions, runs of letters, single digits, runs of other characters.
const PIECES: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's tokenizer with the tokens of `vocab.json` and the merges of `merges.txt`.
pub(super) fn read(vocab: &Source, merges: &Source, unknown: &str) -> Result<Tokenizer> {
    let model = BPE::builder()
        .vocab_and_merges(read_vocab(vocab)?, read_merges(merges)?)
        .end_of_word_suffix("</w>".to_owned())
        .unk_token(unknown.to_owned())
        .build()
        .map_err(|reason| {
            let vocab = vocab.name().display();
            Error::config(merges, format!("does not belong to {vocab}: {reason}"))
        })?;
    let mut tokenizer = Tokenizer::new(model);
    clip_rules(&mut tokenizer).map_err(|reason| Error::config(vocab, reason))?;
    Ok(tokenizer)
}

fn read_vocab(file: &Source) -> Result<Vocab> {
    let text = file.text()?;
    let vocab: HashMap<String, u32> = serde_json::from_str(&text).map_err(|reason| {
        let reason = format!("not a vocabulary of tokens and their ids: {reason}");
        Error::config(file, reason)
    })?;
    Ok(vocab.into_iter().collect())
}

/// The pairs of pieces to merge, highest priority first.
fn read_merges(file: &Source) -> Result<Merges> {
    let text = file.text()?;
    let lines = (1..).zip(text.lines());
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"))
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right))
                if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
            {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(Error::config(
                file,
                format!("line {number}: {line:?} is not two pieces separated by a space"),
            )),
        })
        .collect()
}

/// Sets CLIP's normalization (canonical composition, white space to single spaces, lower
/// case) and pre-tokenization (split into [`PIECES`]).
fn clip_rules(tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
    let spaces = normalizers::Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(vec![
        NormalizerWrapper::NFC(NFC),
        spaces.into(),
        Lowercase.into(),
    ])))?;
    let pieces = Split::new(
        SplitPattern::Regex(PIECES.to_owned()),
        SplitDelimiterBehavior::Removed,
        true,
    )?;
    // The pattern of ByteLevel remains enabled: it splits special tokens that are
    // written in capitals.
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::sequence::Sequence::new(vec![
        PreTokenizerWrapper::Split(pieces),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    Ok(())
}
