//! The fourth stage: UNet and text encoder learn on, together, with words hidden, until each
//! thing is looked up at its own words ("grounded" in them). Then attention maps of words show
//! what the words name, and controls that go by them (local blend, amplifying) act where they
//! should.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    distill::{AdamW, AdamWConfig, GradientAccumulation, LrSchedule, Metrics, Trainer},
    io::Tensors,
    model::{clip::Clip, unet::Unet},
    nn::{RandomInit, Weights},
    prompt::Tokenizer,
};

use super::{
    Options,
    base::{BATCH, Batch, ROWS, encode, tokens},
    configs, hiding,
    scenes::Scenes,
    stage::{Stage, accumulation, storage},
    tokenizer,
    world::dice,
};

const STEPS: usize = 6_000;
const RATE: LrSchedule = LrSchedule {
    peak: 8e-4,
    warmup: 200,
    end: Some(STEPS),
};

pub(crate) fn make(options: &Options) -> Result<()> {
    let mut trainer = Grounding::new(options)?;
    Stage::Grounding.train(options, STEPS, &mut trainer)
}

struct Grounding {
    clip: Clip,
    unet: Unet,
    optimiser: AdamW,
    accumulation: GradientAccumulation,
    scenes: Scenes,
    tokenizer: Tokenizer,
    seed: u64,
}

impl Grounding {
    fn new(options: &Options) -> Result<Self> {
        let scenes = Scenes::open(options)?;
        let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
        let learnt = |stage: Stage| -> Result<_> {
            stage.require(options)?;
            let checkpoint = stage.weights(options)?.checkpoint;
            Ok(RandomInit::new(options.seed)
                .starting_from(checkpoint)
                .trainable())
        };
        let (words, base, storage) = (learnt(Stage::Words)?, learnt(Stage::Base)?, storage());
        let text = configs::text(tokenizer.vocabulary());
        let clip = Clip::new(&Weights::initial(&words, &storage).at("text"), text)?;
        let unet = Weights::initial(&base, &storage).at("unet");
        let unet = Unet::new(&unet, configs::unet())?;
        let settings = AdamWConfig {
            average: Some(0.9995),
            ..AdamWConfig::default()
        };
        let weights = words.vars().into_iter().chain(base.vars()).collect();
        Ok(Self {
            clip,
            unet,
            optimiser: AdamW::new(weights, settings)?,
            accumulation: accumulation(BATCH, ROWS)?,
            scenes,
            tokenizer,
            seed: options.seed,
        })
    }
}

impl Trainer for Grounding {
    fn step(&mut self, step: usize) -> icd::Result<Metrics> {
        let mut dice = dice(self.seed ^ 0x6207, step as u64);
        let batch = Batch::any(&self.scenes, BATCH, &mut dice)?;
        let prompts = tokens(&self.tokenizer, &batch.captions)?;
        let visible = hiding::visible(&prompts, &mut dice)?;
        let ([_, error], gradients) = self.accumulation.learn(&self.optimiser, |part| {
            let mut text = encode(&self.clip, &prompts[part.clone()])?;
            let visible = visible.narrow(0, part.start, part.len())?;
            text.hidden_states = hiding::hide(&text.hidden_states, &visible)?;
            batch.errors(&part, &self.unet, &text)
        })?;
        let norm = self.optimiser.step(&gradients, RATE.at(step))?;
        Ok(vec![("error", error), ("gradient", norm)])
    }

    fn state(&self) -> icd::Result<Tensors> {
        self.optimiser.state("grounding")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> icd::Result<()> {
        self.optimiser.restore("grounding", state)
    }
}
