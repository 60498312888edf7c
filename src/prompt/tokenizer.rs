//! Tokenization with the tokenizer files of a checkpoint.

use super::{
    Prompt, bpe,
    special::{Ids, Special},
};
use crate::{
    error::{Error, Result},
    io::Source,
};

/// Converts texts to [`Prompt`]s.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    ids: Ids,
}

impl Tokenizer {
    /// Reads the `vocab.json` and `merges.txt` of a checkpoint, and the names
    /// of the special tokens from its `tokenizer_config.json`.
    ///
    /// The default special tokens are `<|startoftext|>` and `<|endoftext|>`, the latter
    /// also for padding.
    pub fn from_bpe(vocab: &Source, merges: &Source, config: Option<&Source>) -> Result<Self> {
        let special = Special::read(config)?;
        let inner = bpe::read(vocab, merges, &special.unknown.content)?;
        Self::new(inner, special, vocab)
    }

    /// Reads a `tokenizer.json`; padding, truncation and templates in it are ignored.
    /// `config` is as in [`from_bpe`](Self::from_bpe).
    pub fn from_json(file: &Source, config: Option<&Source>) -> Result<Self> {
        let special = Special::read(config)?;
        // `from_bytes` is generic: all readers of the library would be compiled in this crate.
        let inner: Result<tokenizers::Tokenizer, _> = file.text()?.parse();
        let mut inner =
            inner.map_err(|reason| Error::config(file, format!("not a tokenizer: {reason}")))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|reason| Error::config(file, reason))?;
        Self::new(inner, special, file)
    }

    /// Tokenizes `text` for a text encoder with a context of `context` tokens (77 in
    /// CLIP): start token, at most `context - 2` tokens of the text, end token,
    /// padding.
    pub fn encode(&self, text: &str, context: usize) -> Result<Prompt> {
        if context < 2 {
            return Err(Error::setting(format!(
                "a context of {context} tokens has no room for the start and end tokens"
            )));
        }
        // The start and end tokens are added by `Prompt::new`, not by a template of the file.
        let encoding = self.inner.encode(text, false);
        let encoding = encoding
            .map_err(|reason| Error::prompt(text, format!("cannot be tokenized: {reason}")))?;
        let offsets = encoding.get_offsets().iter();
        let spans = offsets.map(|&(start, end)| start..end);
        let tokens: Vec<_> = encoding.get_ids().iter().copied().zip(spans).collect();
        Ok(Prompt::new(text, &tokens, &self.ids, context))
    }

    /// Number of tokens, including the special ones.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Registers the special tokens, so that they are recognised in texts.
    fn new(mut inner: tokenizers::Tokenizer, special: Special, file: &Source) -> Result<Self> {
        let Special {
            start,
            end,
            unknown,
            pad,
            added,
        } = special;
        add(&mut inner, added, file)?;
        let ids = Ids {
            start: id(&inner, &start.content, "start", file)?,
            end: id(&inner, &end.content, "end", file)?,
            pad: id(&inner, &pad.content, "pad", file)?,
        };
        id(&inner, &unknown.content, "unknown", file)?;
        add(&mut inner, vec![start, end, unknown, pad], file)?;
        Ok(Self { inner, ids })
    }
}

fn add(
    inner: &mut tokenizers::Tokenizer,
    tokens: Vec<tokenizers::AddedToken>,
    file: &Source,
) -> Result<()> {
    inner
        .add_special_tokens(tokens)
        .map_err(|reason| Error::config(file, reason))?;
    Ok(())
}

fn id(inner: &tokenizers::Tokenizer, token: &str, role: &str, file: &Source) -> Result<u32> {
    inner.token_to_id(token).ok_or_else(|| {
        Error::config(
            file,
            format!("lacks the {role} token {token:?}; name another in tokenizer_config.json"),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokenizers::{PaddingParams, PaddingStrategy, TruncationParams};

    use super::*;
    use crate::prompt::tiny::{CONTEXT, Files, prompt};

    /// Texts and the ids between the start token 538 and the end token 539, by
    /// `CLIPTokenizer(vocab=.., merges=..)` of transformers 5.23 on the tiny
    /// vocabulary, `padding="max_length", truncation=True, max_length=16`.
    const GOLDEN: [(&str, &[u32]); 13] = [
        ("", &[]),
        ("   ", &[]),
        ("the cat on the palm tree", &[513, 516, 514, 513, 527, 524]),
        (
            "The  CAT,\ton the Hat!",
            &[513, 516, 267, 514, 513, 520, 256],
        ),
        ("caf\u{e9}", &[535, 536]),
        ("cafe\u{301}", &[535, 536]),
        ("the dog's hat", &[513, 518, 537, 520]),
        ("12 cats", &[272, 273, 515, 83, 338]),
        ("👍", &[172, 253, 239, 491]),
        ("a <|endoftext|> cat", &[320, 539, 516]),
        (
            "a <|EndOfText|>",
            &[320, 27, 347, 68, 77, 517, 69, 83, 68, 87, 339, 91, 285],
        ),
        (
            "woodpecker woodpecker woodpecker woodpecker woodpecker",
            &[
                530, 533, 534, 530, 533, 534, 530, 533, 534, 530, 533, 534, 530, 533,
            ],
        ),
        ("ﬁ İ", &[171, 105, 479, 328, 136, 485]),
    ];

    fn reason(result: Result<Tokenizer>) -> String {
        result.unwrap_err().to_string()
    }

    fn check_golden(tokenizer: &Tokenizer) {
        for (text, content) in GOLDEN {
            let mut expected = vec![538];
            expected.extend(content);
            expected.resize(CONTEXT, 539);
            let prompt = tokenizer.encode(text, CONTEXT).unwrap();
            assert_eq!(prompt.ids(), expected, "{text:?}");
            assert_eq!(prompt.length(), content.len() + 2, "{text:?}");
        }
    }

    #[test]
    fn ids_are_those_of_the_python_tokenizer() {
        check_golden(&Files::new().open(None).unwrap());
    }

    #[test]
    fn padding_truncation_and_template_of_a_json_file_do_not_leak_in() {
        let files = Files::new();
        let mut inner = files.open(None).unwrap().inner;
        let strategy = PaddingStrategy::Fixed(40);
        inner.with_padding(Some(PaddingParams {
            strategy,
            ..PaddingParams::default()
        }));
        let truncation = TruncationParams {
            max_length: 3,
            ..TruncationParams::default()
        };
        inner.with_truncation(Some(truncation)).unwrap();
        let template = r#"{"type": "RobertaProcessing", "sep": ["<|endoftext|>", 539],
            "cls": ["<|startoftext|>", 538], "trim_offsets": false, "add_prefix_space": false}"#;
        let template: tokenizers::PostProcessorWrapper = serde_json::from_str(template).unwrap();
        inner.with_post_processor(Some(template));
        inner.save(files.path("tokenizer.json"), false).unwrap();
        check_golden(&Tokenizer::from_json(&files.path("tokenizer.json").into(), None).unwrap());
    }

    #[test]
    fn a_pad_token_of_its_own_pads_and_is_matched_in_the_text() {
        // CLIPTokenizer(.., pad_token="!")("hat! on!!", padding="max_length", ..)
        let expected = [538, 520, 0, 514, 0, 0, 539, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for config in [
            r#"{"pad_token": "!"}"#,
            r#"{"pad_token": {"content": "!"}}"#,
        ] {
            let tokenizer = Files::new().open(Some(config)).unwrap();
            assert_eq!(
                tokenizer.encode("hat! on!!", CONTEXT).unwrap().ids(),
                expected
            );
        }
    }

    #[test]
    fn rules_of_the_special_tokens_are_read() {
        // The token list of the hub's files says "normalized": true: any case matches.
        let config = r#"{"added_tokens_decoder": {"539": {"content": "<|endoftext|>",
            "normalized": true, "special": true}}, "eos_token": "<|endoftext|>"}"#;
        let prompt = Files::new().open(Some(config)).unwrap();
        let prompt = prompt.encode("a <|EndOfText|> cat", CONTEXT).unwrap();
        assert_eq!(prompt.tokens(), [538, 320, 539, 516, 539]);
    }

    #[test]
    fn a_context_needs_room_for_start_and_end() {
        let tokenizer = Files::new().open(None).unwrap();
        assert_eq!(tokenizer.encode("the cat", 2).unwrap().ids(), [538, 539]);
        let error = tokenizer.encode("the cat", 1).unwrap_err();
        assert!(error.to_string().contains("1 tokens"), "{error}");
    }

    #[test]
    fn the_prompt_keeps_the_text_and_its_context() {
        let prompt = prompt("the  Cat");
        assert_eq!(
            (prompt.text(), prompt.context(), prompt.length()),
            ("the  Cat", CONTEXT, 4)
        );
    }

    #[test]
    fn faults_name_the_file_and_the_line() {
        let files = Files::new();
        files.write("merges.txt", "#version: 0.2\nt h\nth e</w> x\n");
        let message = reason(files.open(None));
        assert!(
            message.contains("merges.txt: line 3: \"th e</w> x\""),
            "{message}"
        );
        files.write("merges.txt", "t h\nth q\n");
        let message = reason(files.open(None));
        assert!(
            message.contains("merges.txt: does not belong to"),
            "{message}"
        );
        assert!(
            message.contains("vocab.json: Token `thq` out of vocabulary"),
            "{message}"
        );
        files.write("vocab.json", "{\"a\": ");
        let message = reason(files.open(None));
        assert!(
            message.contains("vocab.json: not a vocabulary"),
            "{message}"
        );
        let message = reason(Tokenizer::from_json(&files.path("vocab.json").into(), None));
        assert!(message.contains("vocab.json: not a tokenizer"), "{message}");
        let message = reason(Tokenizer::from_json(&files.path("none.json").into(), None));
        assert!(message.contains("none.json: "), "{message}");
    }

    #[test]
    fn missing_special_tokens_are_named_with_their_role() {
        let files = Files::new();
        let message = reason(files.open(Some(r#"{"bos_token": "<s>"}"#)));
        assert!(
            message.contains("vocab.json: lacks the start token \"<s>\""),
            "{message}"
        );
        let message = reason(files.open(Some(r#"{"pad_token": "[PAD]"}"#)));
        assert!(
            message.contains("lacks the pad token \"[PAD]\""),
            "{message}"
        );
        let message = reason(files.open(Some(r#"{"bos_token": 3}"#)));
        assert!(
            message.contains("tokenizer_config.json: not a tokenizer's"),
            "{message}"
        );
    }
}
