//! The third stage: a UNet that learns to predict the noise in latents (arXiv
//! 2006.11239), some of them without a caption, so that it can be guided (arXiv
//! 2207.12598). The text encoder stays as it is: a UNet that does not know yet
//! what to make of words would unlearn them.

use std::{collections::HashMap, ops::Range};

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use icd::{
    distill::{AdamW, AdamWConfig, GradientAccumulation, LrSchedule, Metrics, RowLevels, Trainer},
    io::Tensors,
    model::{
        Conditioning,
        attention::NoControl,
        clip::Clip,
        unet::{Unet, UnetInput},
    },
    nn::{RandomInit, Weights},
    noise::Noise,
    prompt::{Prompt, Tokenizer},
    schedule::{NoiseSchedule, Timestep},
};
use rand::Rng;

use super::{
    Options, configs,
    scenes::Scenes,
    stage::{Stage, accumulation, storage},
    tokenizer, words,
    world::{Dice, dice},
};

const STEPS: usize = 8_000;
pub(crate) const BATCH: usize = 32;
/// Latents that a thread learns at once.
pub(crate) const ROWS: usize = 16;
const RATE: LrSchedule = LrSchedule {
    peak: 1.5e-3,
    warmup: 500,
    end: Some(STEPS),
};
/// Deep noise begins here ..
const DEEP: u16 = 600;
/// .. and ends here.
const LAST: u16 = 999;
/// The share of rows that learn without a caption.
const UNCAPTIONED: f64 = 0.1;

pub(crate) fn make(options: &Options) -> Result<()> {
    Stage::Words.require(options)?;
    let scenes = Scenes::open(options)?;
    let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
    let mut trainer = Base::new(options, scenes, tokenizer)?;
    Stage::Base.train(options, STEPS, &mut trainer)
}

struct Base {
    clip: Clip,
    unet: Unet,
    optimiser: AdamW,
    accumulation: GradientAccumulation,
    scenes: Scenes,
    tokenizer: Tokenizer,
    seed: u64,
}

impl Base {
    fn new(options: &Options, scenes: Scenes, tokenizer: Tokenizer) -> Result<Self> {
        let fresh = RandomInit::new(!options.seed).trainable();
        let unet = Unet::new(&Weights::initial(&fresh, &storage()), configs::unet())?;
        let settings = AdamWConfig {
            average: Some(0.9995),
            ..AdamWConfig::default()
        };
        Ok(Self {
            clip: words::finished(options, tokenizer.vocabulary())?,
            unet,
            optimiser: AdamW::new(named("unet", &fresh).collect(), settings)?,
            accumulation: accumulation(BATCH, ROWS)?,
            scenes,
            tokenizer,
            seed: options.seed,
        })
    }
}

/// How much the rows' errors weigh, (b): errors of the noise as those of the velocity would (arXiv
/// 2202.00512). What a picture shows is decided in deep noise, where the noise itself is predicted
/// well by any network.
fn weights(schedule: &NoiseSchedule, times: &[Timestep]) -> icd::Result<Tensor> {
    let weight = |&t: &Timestep| {
        let (signal, _) = schedule.alpha_sigma_unclamped(t);
        signal.powi(-2) as f32
    };
    let weights: Vec<_> = times.iter().map(weight).collect();
    Ok(Tensor::new(weights, &Device::Cpu)?)
}

/// The caption of a scene, or none.
fn caption(scenes: &Scenes, index: usize, dice: &mut Dice) -> String {
    match dice.random_bool(UNCAPTIONED) {
        true => String::new(),
        false => scenes.caption(index, dice),
    }
}

/// A timestep to learn: one in five is the last, and two lie in deep noise,
/// where it is decided what a picture shows and where.
fn time(dice: &mut Dice) -> Timestep {
    let first = [LAST, DEEP, DEEP, 0, 0][dice.random_range(0..5)];
    Timestep(dice.random_range(first..=LAST))
}

/// Latents x (b, 4, h, w) and noise mixed at these timesteps, but noise alone at
/// the last one. There the schedule leaves a hint of the latents, which tells
/// where things are, and new pictures begin without one (arXiv 2305.08891): a
/// UNet that learnt to rely on it would see it in any noise.
fn mixed(
    levels: &RowLevels,
    x: &Tensor,
    noise: &Tensor,
    times: &[Timestep],
) -> icd::Result<Tensor> {
    let alone = |t: &Timestep| f32::from(u8::from(t.0 == LAST));
    let alone: Vec<_> = times.iter().map(alone).collect();
    let alone = Tensor::from_vec(alone, (times.len(), 1, 1, 1), &Device::Cpu)?;
    let mixed = levels.mix(x, noise)?;
    Ok((&mixed + (noise - &mixed)?.broadcast_mul(&alone)?)?)
}

/// What a text encoder makes of captions.
pub(crate) fn read(
    clip: &Clip,
    tokenizer: &Tokenizer,
    captions: &[String],
) -> icd::Result<Conditioning> {
    encode(clip, &tokens(tokenizer, captions)?)
}

/// Captions as tokens.
pub(crate) fn tokens(tokenizer: &Tokenizer, captions: &[String]) -> icd::Result<Vec<Prompt>> {
    let captions = captions.iter();
    captions
        .map(|caption| tokenizer.encode(caption, configs::CONTEXT))
        .collect()
}

/// The text states of prompts.
pub(crate) fn encode(clip: &Clip, prompts: &[Prompt]) -> icd::Result<Conditioning> {
    let ids: Vec<_> = prompts.iter().map(Prompt::ids).collect();
    let ends: Vec<_> = prompts.iter().map(|prompt| prompt.end() as u32).collect();
    Ok(Conditioning {
        hidden_states: clip.forward(&ids, &ends)?.last,
        pooled: None,
    })
}

/// The weights of a network, each under the network's name.
pub(crate) fn named(network: &str, fresh: &RandomInit) -> impl Iterator<Item = (String, Var)> {
    let vars = fresh.vars().into_iter();
    vars.map(move |(name, var)| (format!("{network}.{name}"), var))
}

/// What a UNet learns from in one step: noise in latents, under captions.
pub(crate) struct Batch {
    pub(crate) captions: Vec<String>,
    times: Vec<Timestep>,
    /// Latents with noise, (b, 4, h, w).
    noised: Tensor,
    /// That noise.
    noise: Tensor,
    /// How much the rows' errors weigh, (b).
    weights: Tensor,
}

impl Batch {
    /// Of so many scenes, drawn by lot.
    pub(crate) fn any(scenes: &Scenes, count: usize, dice: &mut Dice) -> icd::Result<Self> {
        let schedule = NoiseSchedule::default();
        let drawn = (0..count).map(|_| dice.random_range(0..scenes.count()));
        let drawn: Vec<_> = drawn.collect();
        let captions = drawn.iter().map(|&i| caption(scenes, i, dice)).collect();
        let times: Vec<_> = (0..count).map(|_| time(dice)).collect();
        let x = scenes.latents(&drawn)?;
        let noise = Noise::new(dice.random()).normal(x.shape(), &Device::Cpu)?;
        let levels = RowLevels::with_soft_end(&schedule, &times, &Device::Cpu)?;
        let noised = mixed(&levels, &x, &noise, &times)?;
        Ok(Self {
            captions,
            noise: levels.noise_in(&noised, &x)?,
            noised,
            weights: weights(&schedule, &times)?,
            times,
        })
    }

    /// The squared error of the noise that a UNet sees in some of the rows, given their text:
    /// weighed, and as it is.
    pub(crate) fn errors(
        &self,
        part: &Range<usize>,
        unet: &Unet,
        text: &Conditioning,
    ) -> icd::Result<[Tensor; 2]> {
        let of = |x: &Tensor| x.narrow(0, part.start, part.len());
        let eps = unet.forward(
            UnetInput {
                latent: &of(&self.noised)?,
                times: &self.times[part.clone()],
                guidance: &vec![0.0; part.len()],
                text: &unet.prepare(text)?,
            },
            &mut NoControl,
        )?;
        let error = (eps - of(&self.noise)?)?.sqr()?.mean((1, 2, 3))?; // (b)
        Ok([
            (&error * of(&self.weights)?)?.mean_all()?,
            error.mean_all()?,
        ])
    }
}

impl Trainer for Base {
    fn step(&mut self, step: usize) -> icd::Result<Metrics> {
        let mut dice = dice(self.seed ^ 0xBA5E, step as u64);
        let batch = Batch::any(&self.scenes, BATCH, &mut dice)?;
        let ([_, error], gradients) = self.accumulation.learn(&self.optimiser, |part| {
            let text = read(&self.clip, &self.tokenizer, &batch.captions[part.clone()])?;
            batch.errors(&part, &self.unet, &text)
        })?;
        let norm = self.optimiser.step(&gradients, RATE.at(step))?;
        Ok(vec![("error", error), ("gradient", norm)])
    }

    fn state(&self) -> icd::Result<Tensors> {
        self.optimiser.state("base")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> icd::Result<()> {
        self.optimiser.restore("base", state)
    }
}
