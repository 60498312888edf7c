//! From prompts to what the UNet is told of them: one or two text encoders.

use candle_core::{DType, Tensor};

use super::{
    clip::{Clip, ClipConfig, States},
    diffusers,
    family::Family,
    parts::{Parts, Style},
    single::Part,
};
use crate::{
    error::Result,
    hub::Home,
    lora::{Adapter, Network, Reading},
    nn::{Checkpoint, LowRanks, Storage, Weights, stacked},
    prompt::{Prompt, Tokenizer},
};

/// The text of some rows, as the UNet takes it.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// The text states (rows, tokens, width).
    pub tokens: Tensor,
    /// SDXL's pooled text (rows, width).
    pub pooled: Option<Tensor>,
}

impl Conditioning {
    /// Picks rows, in any order and number.
    pub fn rows(&self, rows: impl Iterator<Item = usize>) -> Result<Self> {
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        let index = Tensor::new(rows, self.tokens.device())?;
        let pick = |x: &Tensor| x.index_select(&index, 0);
        Ok(Self {
            tokens: pick(&self.tokens)?,
            pooled: self.pooled.as_ref().map(pick).transpose()?,
        })
    }

    /// These states under the pooled text of others.
    pub fn pooled_as(self, other: &Self) -> Self {
        Self {
            pooled: other.pooled.clone(),
            ..self
        }
    }
}

/// Prompts, as a person wrote them and as the UNet is told of them.
#[derive(Clone, Debug)]
pub struct Text {
    /// The prompts in the first encoder's tokens.
    pub prompts: Vec<Prompt>,
    /// One row per prompt.
    pub states: Conditioning,
}

/// The tokenizers of a model's text encoders.
#[derive(Debug)]
pub struct Tokenizers(Vec<(Tokenizer, usize)>);

impl Tokenizers {
    /// Opens the tokenizers of a model, with the length of their contexts.
    pub fn open(home: &Home, family: Family) -> Result<Self> {
        let open = |(folder, encoder, preset): (&str, &str, super::clip::ClipConfig)| -> Result<_> {
            let context = match home.file(&format!("{encoder}/config.json")) {
                Ok(file) => diffusers::clip_config(&file, false)?.context,
                Err(_) => preset.context,
            };
            Ok((tokenizer(home, folder)?, context))
        };
        family
            .text_encoders()
            .into_iter()
            .map(open)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// How many tokens the first encoder reads, start and end included.
    pub fn context(&self) -> usize {
        self.0[0].1
    }

    /// A prompt in the first encoder's tokens.
    pub fn read(&self, prompt: &str) -> Result<Prompt> {
        let (tokenizer, context) = &self.0[0];
        tokenizer.encode(prompt, *context)
    }
}

fn tokenizer(home: &Home, folder: &str) -> Result<Tokenizer> {
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

/// Tokenizer folder, encoder folder, measures.
type Encoder = (&'static str, &'static str, ClipConfig);

/// What styles change in a network whose tensors are in `base`.
pub(super) fn style_changes(
    styles: &[Style],
    network: Network,
    base: &Checkpoint,
) -> Result<LowRanks> {
    let reading = Reading {
        alpha: None,
        rounding: DType::F32,
    };
    let read = |(file, share): &Style| -> Result<_> {
        let adapter = Adapter::read_part(file, network, base, reading)?;
        Ok((adapter.changes().clone(), *share))
    };
    let layers: Vec<_> = styles.iter().map(read).collect::<Result<_>>()?;
    Ok(stacked(&layers)?)
}

/// The text encoders of a model with their tokenizers.
#[derive(Debug)]
pub struct TextReader {
    tokenizers: Tokenizers,
    encoders: Vec<Clip>,
}

impl TextReader {
    /// Reads the text encoders of a model, changed by these styles.
    pub(super) fn open(parts: &Parts, storage: &Storage, styles: &[Style]) -> Result<Self> {
        let (home, family) = (&parts.home, parts.family);
        let open = |(index, (_, folder, preset)): (usize, Encoder)| -> Result<Clip> {
            let config = match home.file(&format!("{folder}/config.json")) {
                Ok(file) => diffusers::clip_config(&file, preset.projection.is_some())?,
                Err(_) => preset,
            };
            let checkpoint = parts.open(Part::Text(index))?;
            let changes = style_changes(styles, Network::Text(index), &checkpoint)?;
            let weights = Weights::new(&checkpoint, storage).merged_with(&changes);
            Clip::new(&weights, config)
        };
        let encoders = family
            .text_encoders()
            .into_iter()
            .enumerate()
            .map(open)
            .collect::<Result<_>>()?;
        Ok(Self {
            tokenizers: Tokenizers::open(home, family)?,
            encoders,
        })
    }

    /// Reads prompts. A single encoder gives its final states; of two, the
    /// states before their last layers lie side by side, and the second gives
    /// the pooled text.
    pub fn read(&self, prompts: &[&str]) -> Result<Text> {
        let states = self.states(prompts)?;
        let (tokens, pooled) = match &states[..] {
            [only] => (only.last.clone(), None),
            many => {
                let tokens: Vec<_> = many.iter().map(|states| &states.penultimate).collect();
                (
                    Tensor::cat(&tokens, 2)?,
                    many.last().and_then(|states| states.pooled.clone()),
                )
            }
        };
        let pooled = pooled
            .map(|pooled| pooled.to_dtype(DType::F32))
            .transpose()?;
        let states = Conditioning {
            tokens: tokens.to_dtype(DType::F32)?,
            pooled,
        };
        let prompts = prompts
            .iter()
            .map(|prompt| self.tokenizers.read(prompt))
            .collect::<Result<_>>()?;
        Ok(Text { prompts, states })
    }

    fn states(&self, prompts: &[&str]) -> Result<Vec<States>> {
        let encode =
            |((tokenizer, context), clip): (&(Tokenizer, usize), &Clip)| -> Result<States> {
                let prompts: Vec<Prompt> = prompts
                    .iter()
                    .map(|prompt| tokenizer.encode(prompt, *context))
                    .collect::<Result<_>>()?;
                let ids: Vec<&[u32]> = prompts.iter().map(Prompt::ids).collect();
                let ends: Vec<u32> = prompts.iter().map(|prompt| prompt.end() as u32).collect();
                clip.forward(&ids, &ends)
            };
        self.tokenizers
            .0
            .iter()
            .zip(&self.encoders)
            .map(encode)
            .collect()
    }
}
