//! Encodes prompts into the UNet's conditioning with one or two text encoders.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{
    clip::{Clip, ClipConfig, States},
    config,
    family::{Family, TextEncoder},
    files::ModelFiles,
    tensors,
};
use crate::{
    error::Result,
    hub::FileTree,
    io::{Checkpoint, Source},
    layout::Network,
    lora::{AdapterFile, Direction, WeightedLora},
    nn::{LoraDeltas, Placement, Taken, Weights, sum_of},
    prompt::{Prompt, Tokenizer},
};

/// The UNet's text conditioning of a batch of rows.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// The text encoder hidden states (rows, tokens, width).
    pub hidden_states: Tensor,
    /// SDXL's pooled text embeddings (rows, width).
    pub pooled: Option<Tensor>,
}

impl Conditioning {
    /// Selects rows, in any order and with repetition.
    pub fn rows(&self, rows: impl Iterator<Item = usize>) -> Result<Self> {
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        let index = Tensor::new(rows, self.hidden_states.device())?;
        let pick = |x: &Tensor| x.index_select(&index, 0);
        Ok(Self {
            hidden_states: pick(&self.hidden_states)?,
            pooled: self.pooled.as_ref().map(pick).transpose()?,
        })
    }

    /// A single row repeated to so many; as many are left as they are.
    pub fn spread(&self, rows: usize) -> Result<Self> {
        match self.hidden_states.dim(0)? {
            1 if rows > 1 => self.rows(std::iter::repeat_n(0, rows)),
            _ => Ok(self.clone()),
        }
    }

    /// The conditioning of zeros, which stands for no prompt in SDXL.
    pub fn zeroed(&self) -> Result<Self> {
        Ok(Self {
            hidden_states: self.hidden_states.zeros_like()?,
            pooled: self.pooled.as_ref().map(Tensor::zeros_like).transpose()?,
        })
    }

    /// These hidden states with the pooled text embeddings of `other`.
    pub fn pooled_as(self, other: &Self) -> Self {
        Self {
            pooled: other.pooled.clone(),
            ..self
        }
    }
}

/// Prompts with their tokens and encoded conditioning.
#[derive(Clone, Debug)]
pub struct EncodedPrompts {
    /// The prompts, tokenized for the first encoder.
    pub prompts: Vec<Prompt>,
    /// One row per prompt.
    pub states: Conditioning,
}

/// The tokenizers of a model's text encoders.
#[derive(Clone, Debug)]
pub struct Tokenizers(Arc<[(Tokenizer, usize)]>);

impl Tokenizers {
    /// Opens the tokenizers of a model, with their context lengths.
    pub fn open(home: &FileTree, family: Family) -> Result<Self> {
        let encoders = family.text_encoders().into_iter();
        let open = |(encoder, config): (TextEncoder, ClipConfig)| -> Result<_> {
            let tokenizer = tokenizer(home, encoder.tokenizer)?;
            Ok((tokenizer, config.max_position_embeddings))
        };
        let all = encoders.zip(configs(home, family)?).map(open);
        all.collect::<Result<_>>().map(Self)
    }

    /// The context length of the first encoder, start and end tokens included.
    pub fn context(&self) -> usize {
        self.0[0].1
    }

    /// Tokenizes a prompt for the first encoder.
    pub fn tokenize(&self, prompt: &str) -> Result<Prompt> {
        let (tokenizer, context) = &self.0[0];
        tokenizer.encode(prompt, *context)
    }
}

fn tokenizer(home: &FileTree, folder: &str) -> Result<Tokenizer> {
    let config = home.file(&format!("{folder}/tokenizer_config.json")).ok();
    match home.file(&format!("{folder}/vocab.json")) {
        Ok(vocabulary) => {
            let merges = home.file(&format!("{folder}/merges.txt"))?;
            Tokenizer::from_bpe(&vocabulary, &merges, config.as_ref())
        }
        Err(missing) => match home.file(&format!("{folder}/tokenizer.json")) {
            Ok(json) => Tokenizer::from_json(&json, config.as_ref()),
            Err(_) => Err(missing),
        },
    }
}

/// The existing tokenizer files of a model.
pub(super) fn tokenizer_files(home: &FileTree, family: Family) -> Vec<Source> {
    const NAMES: [&str; 4] = [
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let encoders = family.text_encoders().into_iter();
    let files =
        encoders.flat_map(|encoder| NAMES.map(|name| format!("{}/{name}", encoder.tokenizer)));
    files.filter_map(|file| home.file(&file).ok()).collect()
}

/// The configuration files of a model's text encoders, as far as they exist.
pub(super) fn encoder_configs(home: &FileTree, family: Family) -> Vec<Option<Source>> {
    let encoders = family.text_encoders().into_iter();
    let file = |encoder: TextEncoder| home.file(&format!("{}/config.json", encoder.folder)).ok();
    encoders.map(file).collect()
}

/// The configurations of a model's text encoders, else the family's defaults.
pub(super) fn configs(home: &FileTree, family: Family) -> Result<Vec<ClipConfig>> {
    let files = encoder_configs(home, family);
    let encoders = family.text_encoders().into_iter().zip(files);
    let config = |(encoder, file): (TextEncoder, Option<Source>)| match file {
        Some(file) => config::clip_config(&file, encoder.config.projection_dim.is_some()),
        None => Ok(encoder.config),
    };
    encoders.map(config).collect()
}

/// The weighted sum of the LoRAs' deltas for a network. Each must modify one of the
/// model's networks at least.
pub(super) fn lora_deltas(
    parts: &ModelFiles,
    loras: &[WeightedLora<Source>],
    network: Network,
) -> Result<LoraDeltas> {
    if loras.is_empty() {
        return Ok(LoraDeltas::new());
    }
    let networks = parts.open_for_loras()?;
    let networks = bases(&networks);
    let read = |lora: &WeightedLora<Source>| {
        let file = AdapterFile::open(&lora.file, parts.lora_alpha)?;
        let placed = file.placed(&networks)?;
        placed.deltas(network, lora.weight, DType::F32)
    };
    let layers: Vec<_> = loras.iter().map(read).collect::<Result<_>>()?;
    Ok(sum_of(layers)?)
}

/// What a user should know of the style LoRAs.
pub(super) fn notes_of_loras(parts: &ModelFiles) -> Result<Vec<String>> {
    let loras = parts.loras()?;
    if loras.is_empty() {
        return Ok(Vec::new());
    }
    let networks = parts.open_for_loras()?;
    let mut notes = Vec::new();
    for lora in loras {
        let file = AdapterFile::open(&lora.file, parts.lora_alpha)?;
        notes.extend(file.placed(&bases(&networks))?.notes()?);
        if Direction::of(&lora.file)? == Some(Direction::Forward) {
            let name = lora.file.name().display();
            notes.push(format!(
                "adapter {name}: its metadata or its name says that it is a forward adapter, \
                 but it is applied to edits and generations"
            ));
        }
    }
    Ok(notes)
}

fn bases(networks: &[(Network, Checkpoint)]) -> Vec<(Network, &Checkpoint)> {
    networks
        .iter()
        .map(|(network, base)| (*network, base))
        .collect()
}

/// The text encoders of a model with their tokenizers.
#[derive(Debug)]
pub struct TextEncoders {
    tokenizers: Tokenizers,
    encoders: Vec<Clip>,
}

impl TextEncoders {
    /// Loads the text encoders of a model with these LoRAs merged in.
    pub(super) fn open(
        tokenizers: Tokenizers,
        parts: &ModelFiles,
        (placement, loras): (&Placement, &[WeightedLora<Source>]),
    ) -> Result<Self> {
        let (home, family) = (&parts.home, parts.family);
        let open = |(index, config)| -> Result<Clip> {
            let network = Network::TextEncoder(index);
            let checkpoint = parts.open(network)?;
            let deltas = lora_deltas(parts, loras, network)?;
            let taken = Taken::default();
            let weights = Weights::new(&checkpoint, placement).noting(&taken);
            let clip = Clip::new(&weights.with_merged_lora(&deltas), config)?;
            tensors::check_taken(&checkpoint, &taken, network)?;
            Ok(clip)
        };
        let encoders = configs(home, family)?.into_iter().enumerate().map(open);
        Ok(Self {
            tokenizers,
            encoders: encoders.collect::<Result<_>>()?,
        })
    }

    /// Encodes prompts. A single encoder gives its final hidden states; of two, the
    /// penultimate hidden states are concatenated along the width, and the second
    /// gives the pooled embeddings.
    pub fn encode(&self, texts: &[&str]) -> Result<EncodedPrompts> {
        let tokenize = |(tokenizer, context): &(Tokenizer, usize)| -> Result<Vec<_>> {
            let prompts = texts.iter().map(|text| tokenizer.encode(text, *context));
            prompts.collect()
        };
        let tokenizers = self.tokenizers.0.iter();
        let mut prompts: Vec<_> = tokenizers.map(tokenize).collect::<Result<_>>()?;
        let states = prompts.iter().zip(&self.encoders);
        let states = states.map(|(prompts, clip)| hidden_states(clip, prompts));
        Ok(EncodedPrompts {
            states: conditioning(&states.collect::<Result<Vec<_>>>()?)?,
            prompts: prompts.swap_remove(0),
        })
    }
}

/// Prompts that are encoded together: memory does not grow with their number.
const TOGETHER: usize = 8;

/// The states of prompts (prompts, context, width).
fn hidden_states(clip: &Clip, prompts: &[Prompt]) -> Result<States> {
    let groups = prompts.chunks(TOGETHER);
    let groups: Vec<_> = groups
        .map(|group| states_together(clip, group))
        .collect::<Result<_>>()?;
    let joined = |part: fn(&States) -> Option<&Tensor>| {
        let parts: Vec<_> = groups.iter().filter_map(part).collect();
        Tensor::cat(&parts, 0)
    };
    Ok(States {
        last: joined(|states| Some(&states.last))?,
        penultimate: joined(|states| Some(&states.penultimate))?,
        pooled: match groups.iter().all(|states| states.pooled.is_some()) {
            true => Some(joined(|states| states.pooled.as_ref())?),
            false => None,
        },
    })
}

fn states_together(clip: &Clip, prompts: &[Prompt]) -> Result<States> {
    let ids: Vec<&[u32]> = prompts.iter().map(Prompt::ids).collect();
    let ends: Vec<u32> = prompts.iter().map(|prompt| prompt.end() as u32).collect();
    clip.forward(&ids, &ends)
}

/// The conditioning, in f32, from the states of each encoder.
fn conditioning(states: &[States]) -> Result<Conditioning> {
    let (hidden, pooled) = match states {
        [only] => (only.last.clone(), None),
        many => {
            let all: Vec<_> = many.iter().map(|states| &states.penultimate).collect();
            let pooled = many.last().and_then(|states| states.pooled.as_ref());
            (Tensor::cat(&all, 2)?, pooled)
        }
    };
    let pooled = pooled.map(|pooled| pooled.to_dtype(DType::F32));
    Ok(Conditioning {
        hidden_states: hidden.to_dtype(DType::F32)?,
        pooled: pooled.transpose()?,
    })
}
