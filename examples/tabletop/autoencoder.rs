//! The first stage: an autoencoder of scenes.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    distill::{AdamW, AdamWConfig, LrSchedule, Metrics, Trainer},
    io::Tensors,
    model::vae::Vae,
    nn::{RandomInit, Weights},
    noise::Noise,
    picture::{Picture, Size},
};
use rand::Rng;
use rayon::prelude::*;

use super::{
    Options, configs,
    drawn::Drawn,
    stage::{Stage, accumulation, storage},
    world::{Dice, SIDE, Scene, dice},
};

/// A pass over pictures, with a learning rate that falls to zero.
struct Pass {
    /// Steps that learn from parts of pictures, most of them around a thing: most of a picture is
    /// table and wall, which are learnt soon ..
    parts: usize,
    /// .. and then steps that learn from whole ones, in which things count more.
    wholes: usize,
    /// The highest learning rate.
    peak: f64,
    /// Whether the errors of edges count, too: then things become sharper.
    edges: bool,
}

const PASSES: [Pass; 2] = [
    Pass {
        parts: 6_500,
        wholes: 1_000,
        peak: 1.5e-3,
        edges: false,
    },
    Pass {
        parts: 3_500,
        wholes: 500,
        peak: 1e-3,
        edges: true,
    },
];
/// Steps in which the learning rate of a pass rises.
const WARMUP: usize = 200;
/// Pixels along each side of a part.
const PART: usize = SIDE / 2;
/// Parts of a step, or whole pictures, which have as many pixels, and how many of them a thread
/// learns at once.
const PARTS: (usize, usize) = (16, 8);
const WHOLES: (usize, usize) = (4, 2);
/// The share of parts that show a thing in their middle, or so many pixels beside it at most.
const CENTRED: f64 = 0.8;
const ASIDE: usize = 20;
/// How much the latents' divergence from normal noise weighs beside the absolute error of the
/// picture: enough to keep them small and smooth. The latents have a 48th of its values, so
/// they are kept more exact than where there are more.
const DIVERGENCE: f64 = 3e-4;
/// The weight of a pixel of a thing in a whole picture, or beside one; that of others is 1.
const THING: f32 = 4.0;
/// Pixels that count as beside a thing.
const BESIDE: usize = 2;
/// Absolute errors are smooth below this.
const SMOOTH: f64 = 1e-2;

pub(crate) fn make(options: &Options) -> Result<()> {
    let mut trainer = Autoencoder::new(options)?;
    let steps = PASSES.iter().map(Pass::steps).sum();
    Stage::Vae.train(options, steps, &mut trainer)
}

impl Pass {
    fn steps(&self) -> usize {
        self.parts + self.wholes
    }

    fn learning_rate(&self, step: usize) -> f64 {
        let schedule = LrSchedule {
            peak: self.peak,
            warmup: WARMUP,
            end: Some(self.steps()),
        };
        schedule.at(step)
    }

    /// The pass of a step, and the step's number within it.
    fn at(mut step: usize) -> (&'static Self, usize) {
        let [.., last] = &PASSES;
        for pass in &PASSES {
            if step < pass.steps() {
                return (pass, step);
            }
            step -= pass.steps();
        }
        (last, last.steps() + step)
    }
}

/// The trained autoencoder, whose latents are multiplied with `scale`.
pub(crate) fn finished(options: &Options, scale: f64) -> Result<Vae> {
    let learnt = Stage::Vae.weights(options)?;
    let storage = storage();
    Ok(Vae::new(&learnt.weights(&storage), configs::vae(scale))?)
}

struct Autoencoder {
    vae: Vae,
    optimiser: AdamW,
    pictures: Drawn,
    seed: u64,
}

impl Autoencoder {
    fn new(options: &Options) -> Result<Self> {
        let fresh = RandomInit::new(options.seed).trainable();
        let storage = storage();
        let vae = Vae::new(&Weights::initial(&fresh, &storage), configs::vae(1.0))?;
        let config = AdamWConfig {
            betas: (0.9, 0.99),
            average: Some(0.999),
            ..AdamWConfig::default()
        };
        Ok(Self {
            vae,
            optimiser: AdamW::new(fresh.vars(), config)?,
            pictures: Drawn::open(options)?,
            seed: options.seed,
        })
    }
}

impl Trainer for Autoencoder {
    fn step(&mut self, step: usize) -> icd::Result<Metrics> {
        let (pass, of_pass) = Pass::at(step);
        let ([pictures, weights], rows) = match of_pass < pass.parts {
            true => (self.parts(step)?, PARTS.1),
            false => (self.wholes(step)?, WHOLES.1),
        };
        let (b, _, height, width) = pictures.dims4()?;
        let (c, factor) = (configs::LATENT.0, SIDE / configs::LATENT.1);
        let shape = (b, c, height / factor, width / factor);
        let noise = Noise::new(self.seed ^ step as u64).normal(shape, &Device::Cpu)?;
        let accumulation = accumulation(b, rows).expect("threads share a step evenly");
        let ([_, error, divergence], gradients) = accumulation.learn(&self.optimiser, |part| {
            let of = |x: &Tensor| x.narrow(0, part.start, part.len());
            let posterior = self.vae.encode(&of(&pictures)?)?;
            let latent = posterior.sample(&of(&noise)?)?;
            let gap = (self.vae.decode(&latent)? - of(&pictures)?)?;
            let (error, divergence) = (gap.sqr()?.mean_all()?, posterior.kl()?);
            let weighed = absolute(&gap)?.broadcast_mul(&of(&weights)?)?;
            let mut loss = (weighed.mean_all()? + (&divergence * DIVERGENCE)?)?;
            if pass.edges {
                for axis in [2, 3] {
                    loss = (loss + absolute(&slope(&gap, axis)?)?.mean_all()?)?;
                }
            }
            Ok([loss, error, divergence])
        })?;
        let rate = pass.learning_rate(of_pass);
        let norm = self.optimiser.step(&gradients, rate)?;
        Ok(vec![
            ("psnr", -10.0 * (error / 4.0).log10()),
            ("divergence", divergence),
            ("gradient", norm),
        ])
    }

    fn state(&self) -> icd::Result<Tensors> {
        self.optimiser.state("vae")
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> icd::Result<()> {
        self.optimiser.restore("vae", state)
    }
}

/// Absolute values, smooth about 0.
fn absolute(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.sqr()? + SMOOTH * SMOOTH)?.sqrt()
}

/// What each value along an axis has more than the one before it.
fn slope(x: &Tensor, axis: usize) -> candle_core::Result<Tensor> {
    let count = x.dim(axis)? - 1;
    x.narrow(axis, 1, count)? - x.narrow(axis, 0, count)?
}

/// A picture and the weight of each of its pixels.
type Weighed = (Picture, Vec<f32>);

impl Autoencoder {
    /// The parts of pictures (b, 3, h, w) that a step learns from, and the weights (b, 1, h, w)
    /// of their pixels.
    fn parts(&self, step: usize) -> icd::Result<[Tensor; 2]> {
        let part = |index: usize, dice: &mut Dice| {
            let corner = corner(&self.pictures.scene(index), dice);
            let part = self.pictures.part(index, corner, PART);
            (part, vec![1.0; PART * PART])
        };
        self.gathered(step, PARTS.0, &part)
    }

    /// The same of whole pictures.
    fn wholes(&self, step: usize) -> icd::Result<[Tensor; 2]> {
        let whole = |index: usize, _: &mut Dice| {
            let covered = self.pictures.scene(index).covered();
            (self.pictures.picture(index), weights(&covered))
        };
        self.gathered(step, WHOLES.0, &whole)
    }

    /// What is taken of so many pictures drawn by lot.
    fn gathered(
        &self,
        step: usize,
        count: usize,
        take: &(dyn Fn(usize, &mut Dice) -> Weighed + Sync),
    ) -> icd::Result<[Tensor; 2]> {
        let taken = (0..count).into_par_iter().map(|i| {
            let mut dice = dice(!self.seed, (step * PARTS.0 + i) as u64);
            let index = dice.random_range(0..self.pictures.count());
            let (picture, weights) = take(index, &mut dice);
            let Size { width, height } = picture.size();
            let weights = Tensor::from_vec(weights, (1, 1, height, width), &Device::Cpu)?;
            Ok((picture.to_tensor(&Device::Cpu)?, weights))
        });
        let taken: icd::Result<Vec<_>> = taken.collect();
        let (pictures, weights): (Vec<_>, Vec<_>) = taken?.into_iter().unzip();
        Ok([Tensor::cat(&pictures, 0)?, Tensor::cat(&weights, 0)?])
    }
}

/// The pixel (column, row) where a part of a scene's picture begins.
fn corner(scene: &Scene, dice: &mut Dice) -> (usize, usize) {
    let last = SIDE - PART;
    if !dice.random_bool(CENTRED) {
        return (dice.random_range(0..=last), dice.random_range(0..=last));
    }
    let thing = dice.random_range(0..scene.things.len());
    let (column, row) = scene.pixel_of(thing);
    let mut from = |middle: usize| {
        let start = middle + dice.random_range(0..=2 * ASIDE);
        start.saturating_sub(ASIDE + PART / 2).min(last)
    };
    (from(column), from(row))
}

/// The weight of each pixel, given which show things.
fn weights(covered: &[bool]) -> Vec<f32> {
    let around = |at: usize| at.saturating_sub(BESIDE)..SIDE.min(at + BESIDE + 1);
    let weight = |i: usize| {
        let (row, column) = (i / SIDE, i % SIDE);
        let near = around(row).any(|row| around(column).any(|column| covered[row * SIDE + column]));
        if near { THING } else { 1.0 }
    };
    (0..covered.len()).map(weight).collect()
}
