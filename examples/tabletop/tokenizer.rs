//! The model's tokenizer: byte-pair encoding in CLIP's files, trained on
//! captions until every word of them is one token.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Result, anyhow};
use icd::prompt::Tokenizer;
use tokenizers::{
    Model, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::world::{Scene, Wording, dice};

/// Captions that are read; far more than there are words.
const CAPTIONS: u64 = 20_000;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Writes `vocab.json`, `merges.txt` and `tokenizer_config.json`, and opens them.
pub(crate) fn make(folder: &Path, seed: u64) -> Result<Tokenizer> {
    fs::create_dir_all(folder)?;
    let merges = merges(folder, seed)?;
    let vocabulary = serde_json::to_string(&vocabulary(&merges))?;
    let config = serde_json::json!({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": super::configs::CONTEXT,
        "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
    });
    let (vocab, list) = (folder.join("vocab.json"), folder.join("merges.txt"));
    fs::write(&vocab, vocabulary)?;
    fs::write(&list, format!("#version: 0.2\n{}\n", merges.join("\n")))?;
    let settings = folder.join("tokenizer_config.json");
    fs::write(&settings, serde_json::to_string_pretty(&config)?)?;
    Ok(Tokenizer::from_bpe(
        &vocab.into(),
        &list.into(),
        Some(&settings.into()),
    )?)
}

/// The words of all captions.
pub(crate) fn words(seed: u64) -> BTreeSet<String> {
    let words = |caption: String| caption.split(' ').map(str::to_owned).collect::<Vec<_>>();
    captions(seed).flat_map(words).collect()
}

fn captions(seed: u64) -> impl Iterator<Item = String> {
    (0..CAPTIONS).map(move |index| {
        let mut dice = dice(!seed, index);
        let scene = Scene::any(&mut dice);
        Wording::any(&mut dice).caption(&scene)
    })
}

/// The joins, in their order, as lines of merges.txt.
fn merges(folder: &Path, seed: u64) -> Result<Vec<String>> {
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(100_000)
        .min_frequency(2)
        .end_of_word_suffix("</w>".to_owned())
        .build();
    let words = |text: &str| Ok(text.split_whitespace().map(str::to_owned).collect());
    let mut bpe = BPE::default();
    trainer
        .feed(captions(seed), words)
        .and_then(|()| trainer.train(&mut bpe))
        .and_then(|_| bpe.save(folder, None))
        .map_err(|error| anyhow!("{error}"))?;
    let text = fs::read_to_string(folder.join("merges.txt"))?;
    Ok(text.lines().skip(1).map(str::to_owned).collect())
}

/// Tokens to ids: every byte, every byte at a word's end, what the merges
/// join, and the two special tokens.
fn vocabulary(merges: &[String]) -> BTreeMap<String, u32> {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let plain = bytes.iter().map(char::to_string);
    let last = bytes.iter().map(|byte| format!("{byte}</w>"));
    let joined = merges.iter().map(|merge| merge.replace(' ', ""));
    let special = [START, END].map(str::to_owned);
    plain
        .chain(last)
        .chain(joined)
        .chain(special)
        .zip(0..)
        .collect()
}
