//! The third stage: a UNet that learns to predict the noise in latents (arXiv
//! 2006.11239), some of them without a caption, so that it can be guided (arXiv
//! 2207.12598). The text encoder stays as it is: a UNet that does not know yet
//! what to make of words would unlearn them.

use std::collections::HashMap;

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
    Options, configs, export,
    scenes::Scenes,
    stage::{Stage, accumulation, storage},
    tokenizer, words,
    world::{Dice, dice},
};

const STEPS: usize = 8_000;
const BATCH: usize = 32;
/// Latents that a thread learns at once.
const ROWS: usize = 16;
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

/// Writes the networks as they are now as a model folder.
pub(crate) fn export(options: &Options) -> Result<()> {
    let scenes = Scenes::open(options)?;
    let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
    export::base(options, scenes.scale, tokenizer.vocabulary())
}

struct Base {
    clip: Clip,
    unet: Unet,
    optimiser: AdamW,
    accumulation: GradientAccumulation,
    scenes: Scenes,
    tokenizer: Tokenizer,
    schedule: NoiseSchedule,
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
            schedule: NoiseSchedule::default(),
            seed: options.seed,
        })
    }

    /// How much the rows' errors weigh, (b): errors of the noise as those of the
    /// velocity would (arXiv 2202.00512). What a picture shows is decided in deep
    /// noise, where the noise itself is predicted well by any network.
    fn weights(&self, times: &[Timestep]) -> icd::Result<Tensor> {
        let weight = |&t: &Timestep| {
            let (signal, _) = self.schedule.alpha_sigma_unclamped(t);
            signal.powi(-2) as f32
        };
        let weights: Vec<_> = times.iter().map(weight).collect();
        Ok(Tensor::new(weights, &Device::Cpu)?)
    }

    fn caption(&self, scene: usize, dice: &mut Dice) -> String {
        match dice.random_bool(UNCAPTIONED) {
            true => String::new(),
            false => self.scenes.caption(scene, dice),
        }
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
    let prompts = captions
        .iter()
        .map(|caption| tokenizer.encode(caption, configs::CONTEXT));
    let prompts: Vec<_> = prompts.collect::<icd::Result<_>>()?;
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

impl Trainer for Base {
    fn step(&mut self, step: usize) -> icd::Result<Metrics> {
        let mut dice = dice(self.seed ^ 0xBA5E, step as u64);
        let scenes: Vec<_> = (0..BATCH)
            .map(|_| dice.random_range(0..self.scenes.count()))
            .collect();
        let captions: Vec<_> = scenes.iter().map(|&i| self.caption(i, &mut dice)).collect();
        let times: Vec<_> = (0..BATCH).map(|_| time(&mut dice)).collect();
        let x = self.scenes.latents(&scenes)?;
        let noise = Noise::new(dice.random()).normal(x.shape(), &Device::Cpu)?;
        let levels = RowLevels::with_soft_end(&self.schedule, &times, &Device::Cpu)?;
        let noised = mixed(&levels, &x, &noise, &times)?;
        let noise = levels.noise_in(&noised, &x)?;
        let weights = self.weights(&times)?;
        let ([_, error], gradients) = self.accumulation.learn(&self.optimiser, |part| {
            let text = read(&self.clip, &self.tokenizer, &captions[part.clone()])?;
            let eps = self.unet.forward(
                UnetInput {
                    latent: &noised.narrow(0, part.start, part.len())?,
                    times: &times[part.clone()],
                    guidance: &vec![0.0; part.len()],
                    text: &self.unet.prepare(&text)?,
                },
                &mut NoControl,
            )?;
            let noise = noise.narrow(0, part.start, part.len())?;
            let error = (eps - noise)?.sqr()?.mean((1, 2, 3))?; // (b)
            let weights = weights.narrow(0, part.start, part.len())?;
            Ok([(&error * weights)?.mean_all()?, error.mean_all()?])
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
