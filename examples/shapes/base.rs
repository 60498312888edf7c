//! The second stage: a text encoder and a UNet that learn together to predict
//! the noise in latents (arXiv 2006.11239), some of them without a caption, so
//! that the UNet can be guided (arXiv 2207.12598).

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use icd::{
    distil::{AdamW, AdamWConfig, Learner, Levels, Measures, Parts, Rate},
    latents::Tensors,
    model::{
        Conditioning,
        attention::Untouched,
        clip::Clip,
        unet::{Input, Unet},
    },
    nn::{Fresh, Weights},
    noise::Noise,
    prompt::{Prompt, Tokenizer},
    schedule::{Schedule, Timestep},
};
use rand::Rng;

use super::{
    Options, Stage, export, measures, parts,
    scenes::{COUNT, Scenes},
    storage, tokenizer, train,
    world::{Dice, dice},
};

const STEPS: usize = 9_000;
const BATCH: usize = 32;
const RATE: Rate = Rate {
    peak: 1.5e-3,
    warmup: 500,
    end: Some(STEPS),
};
/// Errors of the noise are weighed as those of the velocity would be (arXiv
/// 2202.00512), up to so much: what a picture shows is decided in deep noise,
/// where the noise itself is predicted well by any network.
const HEAVIEST: f32 = 20.0;
/// The share of rows that learn without a caption.
const UNCAPTIONED: f64 = 0.1;

pub(crate) fn make(options: &Options) -> Result<()> {
    let scenes = Scenes::open(options)?;
    let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
    let mut learner = Base::new(scenes, tokenizer, options.seed)?;
    train(options, Stage::Base, STEPS, &mut learner)?;
    export(options)
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
    parts: Parts,
    scenes: Scenes,
    tokenizer: Tokenizer,
    schedule: Schedule,
    seed: u64,
}

impl Base {
    fn new(scenes: Scenes, tokenizer: Tokenizer, seed: u64) -> Result<Self> {
        let storage = storage();
        let (text, unet) = (Fresh::new(seed).trainable(), Fresh::new(!seed).trainable());
        let config = measures::text(tokenizer.vocabulary());
        let clip = Clip::new(&Weights::fresh(&text, &storage), config)?;
        let network = Unet::new(&Weights::fresh(&unet, &storage), measures::unet())?;
        let weights: BTreeMap<_, _> = named("text", &text).chain(named("unet", &unet)).collect();
        let settings = AdamWConfig {
            average: Some(0.9995),
            ..AdamWConfig::default()
        };
        Ok(Self {
            clip,
            unet: network,
            optimiser: AdamW::new(weights, settings)?,
            parts: parts(BATCH)?,
            scenes,
            tokenizer,
            schedule: Schedule::default(),
            seed,
        })
    }

    /// What the text encoder makes of captions.
    fn read(&self, captions: &[String]) -> icd::Result<Conditioning> {
        let prompts = captions
            .iter()
            .map(|caption| self.tokenizer.encode(caption, measures::CONTEXT));
        let prompts: Vec<_> = prompts.collect::<icd::Result<_>>()?;
        let ids: Vec<_> = prompts.iter().map(Prompt::ids).collect();
        let ends: Vec<_> = prompts.iter().map(|prompt| prompt.end() as u32).collect();
        Ok(Conditioning {
            tokens: self.clip.forward(&ids, &ends)?.last,
            pooled: None,
        })
    }

    /// How much the rows' errors weigh, (b).
    fn weights(&self, times: &[Timestep]) -> icd::Result<Tensor> {
        let weight = |&t: &Timestep| {
            let (signal, _) = self.schedule.soft_levels(t);
            (signal.powi(-2) as f32).min(HEAVIEST)
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

/// The weights of a network, each under the network's name.
fn named(network: &str, fresh: &Fresh) -> impl Iterator<Item = (String, Var)> {
    let vars = fresh.vars().into_iter();
    vars.map(move |(name, var)| (format!("{network}.{name}"), var))
}

impl Learner for Base {
    fn step(&mut self, step: usize) -> icd::Result<Measures> {
        let mut dice = dice(self.seed ^ 0xBA5E, step as u64);
        let scenes: Vec<_> = (0..BATCH).map(|_| dice.random_range(0..COUNT)).collect();
        let captions: Vec<_> = scenes.iter().map(|&i| self.caption(i, &mut dice)).collect();
        let times: Vec<_> = (0..BATCH)
            .map(|_| Timestep(dice.random_range(0..1000)))
            .collect();
        let x = self.scenes.latents(&scenes)?;
        let noise = Noise::new(dice.random()).normal(x.shape(), &Device::Cpu)?;
        let noised =
            Levels::with_soft_end(&self.schedule, &times, &Device::Cpu)?.mix(&x, &noise)?;
        let weights = self.weights(&times)?;
        let ([_, error], gradients) = self.parts.learn(&self.optimiser, |part| {
            let eps = self.unet.forward(
                Input {
                    latent: &noised.narrow(0, part.start, part.len())?,
                    times: &times[part.clone()],
                    guidance: &vec![0.0; part.len()],
                    text: &self.unet.read(&self.read(&captions[part.clone()])?)?,
                },
                &mut Untouched,
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
