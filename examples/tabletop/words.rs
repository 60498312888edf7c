//! The second stage: a text encoder learns what captions look like, without
//! any noise. Learned places ask its states what lies there, as the pixels of a
//! UNet will.
//!
//! Which of two things a caption puts where is decided in deep noise alone,
//! where a UNet's error hardly tells: a UNet and a text encoder that learn
//! everything together do not find out. Here it is half of the error, and a
//! step takes a tenth of the time.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use icd::{
    distill::{AdamW, AdamWConfig, GradientAccumulation, LrSchedule, Metrics, Trainer},
    io::Tensors,
    model::{
        attention::{AttentionKind, BlockPlace, NoControl, Site, Transformer, TransformerShape},
        clip::Clip,
    },
    nn::{Linear, RandomInit, Weights},
    prompt::Tokenizer,
};
use rand::Rng;

use super::{
    Options, autoencoder,
    base::{named, read},
    configs,
    scenes::Scenes,
    stage::{Stage, accumulation, storage},
    tokenizer,
    world::{HELD_OUT, Scene, Wording, dice},
};

const STEPS: usize = 6_000;
const BATCH: usize = 64;
/// Captions that a thread learns at once.
const ROWS: usize = 8;
const RATE: LrSchedule = LrSchedule {
    peak: 1e-3,
    warmup: 300,
    end: Some(STEPS),
};
/// Places along one side of a picture, each of so many of the latent's values.
const PLACES: usize = 8;
const PATCH: usize = 2;
const CHANNELS: usize = 4;
/// Scenes that a look takes.
const LOOKED_AT: usize = 64;

pub(crate) fn make(options: &Options) -> Result<()> {
    let scenes = Scenes::open(options)?;
    let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
    let mut trainer = Words::new(scenes, tokenizer, options.seed)?;
    Stage::Words.train(options, STEPS, &mut trainer)
}

/// The trained text encoder.
pub(crate) fn finished(options: &Options, vocabulary: usize) -> Result<Clip> {
    let (learnt, storage) = (Stage::Words.weights(options)?, storage());
    let weights = learnt.weights(&storage).at("text");
    Ok(Clip::new(&weights, configs::text(vocabulary))?)
}

/// Tells how well held-out captions of several things are painted, and how badly
/// where their places are exchanged: whether it matters which thing is where.
pub(crate) fn look(options: &Options) -> Result<()> {
    let scenes = Scenes::open(options)?;
    let vae = autoencoder::finished(options, scenes.scale)?;
    let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
    let (learnt, storage) = (Stage::Words.weights(options)?, storage());
    let clip = finished(options, tokenizer.vocabulary())?;
    let painter = Painter::new(&learnt.weights(&storage).at("paint"))?;
    let held_out = (0..).map(|i| Scene::any(&mut dice(HELD_OUT, i)));
    let several: Vec<_> = held_out
        .filter(|scene| scene.things.len() > 1)
        .take(LOOKED_AT)
        .collect();
    let pictures = several
        .iter()
        .map(|scene| scene.render().to_tensor(&Device::Cpu));
    let pictures: Vec<_> = pictures.collect::<icd::Result<_>>()?;
    let truth = vae.encode(&Tensor::cat(&pictures, 0)?)?.mean()?;
    let error = |scenes: &[Scene]| -> Result<f32> {
        let captions: Vec<_> = scenes
            .iter()
            .map(|scene| Wording::PLAIN.caption(scene))
            .collect();
        let text = read(&clip, &tokenizer, &captions)?;
        let shown = painter
            .paint(&text.hidden_states)?
            .to_dtype(truth.dtype())?;
        Ok((shown - &truth)?.sqr()?.mean_all()?.to_scalar()?)
    };
    let exchanged: Vec<_> = several.iter().map(Scene::exchanged).collect();
    println!(
        "{LOOKED_AT} held-out captions are painted with an error of {:.3}, and of {:.3} where \
         the things have exchanged their places",
        error(&several)?,
        error(&exchanged)?
    );
    Ok(())
}

struct Words {
    clip: Clip,
    painter: Painter,
    optimiser: AdamW,
    accumulation: GradientAccumulation,
    scenes: Scenes,
    tokenizer: Tokenizer,
    seed: u64,
}

/// Paints what a text says, place by place.
struct Painter {
    /// What each place asks, (1, places, places, width).
    places: Tensor,
    transformer: Transformer,
    brush: Linear,
}

impl Painter {
    fn new(w: &Weights) -> Result<Self> {
        let width = configs::TEXT;
        let shape = TransformerShape {
            channels: width,
            heads: 4,
            transformer_layers: 2,
            cross_attention_dim: width,
            groups: 8,
        };
        let values = CHANNELS * PATCH * PATCH;
        Ok(Self {
            places: w.tensor("places", (1, PLACES, PLACES, width))?,
            transformer: Transformer::new(&w.at("transformer"), shape)?,
            brush: w.at("brush").linear(width, values)?,
        })
    }

    /// The latents (b, 4, 16, 16) that text states (b, tokens, width) describe.
    fn paint(&self, states: &Tensor) -> icd::Result<Tensor> {
        let rows = states.dim(0)?;
        // Activations are f32, whatever weights are.
        let places = self.places.to_dtype(DType::F32)?;
        let places = places.repeat((rows, 1, 1, 1))?;
        let text = self.transformer.keys_values(states)?;
        let middle = Site {
            index: 0,
            place: BlockPlace::Mid,
            kind: AttentionKind::CrossAttention,
            level: 1,
            height: PLACES,
            width: PLACES,
        };
        let seen = self
            .transformer
            .forward(&places, &text, middle, &mut NoControl)?;
        let patches = self.brush.forward(&seen)?; // (b, places, places, values)
        let patches = patches.reshape(&[rows, PLACES, PLACES, CHANNELS, PATCH, PATCH][..])?;
        let side = PLACES * PATCH;
        let lines = patches.permute(&[0, 3, 1, 4, 2, 5][..])?.contiguous()?;
        Ok(lines.reshape((rows, CHANNELS, side, side))?)
    }
}

impl Words {
    fn new(scenes: Scenes, tokenizer: Tokenizer, seed: u64) -> Result<Self> {
        let storage = storage();
        let fresh = [seed, !seed].map(|seed| RandomInit::new(seed).trainable());
        let [text, paint] = &fresh;
        let config = configs::text(tokenizer.vocabulary());
        let clip = Clip::new(&Weights::initial(text, &storage), config)?;
        let painter = Painter::new(&Weights::initial(paint, &storage))?;
        let weights: BTreeMap<_, _> = named("text", text).chain(named("paint", paint)).collect();
        let settings = AdamWConfig {
            average: Some(0.998),
            ..AdamWConfig::default()
        };
        Ok(Self {
            clip,
            painter,
            optimiser: AdamW::new(weights, settings)?,
            accumulation: accumulation(BATCH, ROWS)?,
            scenes,
            tokenizer,
            seed,
        })
    }
}

impl Trainer for Words {
    fn step(&mut self, step: usize) -> icd::Result<Metrics> {
        let mut dice = dice(self.seed ^ 0x0DD5, step as u64);
        let scenes: Vec<_> = (0..BATCH)
            .map(|_| dice.random_range(0..self.scenes.count()))
            .collect();
        let captions = scenes.iter().map(|&i| self.scenes.caption(i, &mut dice));
        let captions: Vec<_> = captions.collect();
        let truth = self.scenes.latents(&scenes)?;
        let ([error], gradients) = self.accumulation.learn(&self.optimiser, |part| {
            let text = read(&self.clip, &self.tokenizer, &captions[part.clone()])?;
            let painted = self.painter.paint(&text.hidden_states)?;
            let truth = truth.narrow(0, part.start, part.len())?;
            Ok([(painted - truth)?.sqr()?.mean_all()?])
        })?;
        let norm = self.optimiser.step(&gradients, RATE.at(step))?;
        Ok(vec![("error", error), ("gradient", norm)])
    }

    fn state(&self) -> icd::Result<Tensors> {
        self.optimiser.state("words")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> icd::Result<()> {
        self.optimiser.restore("words", state)
    }
}
