//! The first stage: an autoencoder of scenes.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    distill::{AdamW, AdamWConfig, GradientAccumulation, LrSchedule, Metrics, Trainer},
    io::Tensors,
    model::vae::Vae,
    nn::{RandomInit, Weights},
    noise::Noise,
};
use rayon::prelude::*;

use super::{
    Options, configs,
    stage::{Stage, accumulation, storage},
    world::{SIDE, Scene, dice},
};

/// Steps in which all pixels count alike ..
const EVEN: usize = 8_000;
/// .. and then those in which things do more than what they stand on, most of which is the same
/// in every picture.
const SHARP: usize = 3_000;
const BATCH: usize = 4;
/// Pictures that a thread learns at once.
const ROWS: usize = 2;
const EVEN_RATE: LrSchedule = LrSchedule {
    peak: 1.5e-3,
    warmup: 200,
    end: Some(EVEN),
};
const SHARP_RATE: LrSchedule = LrSchedule {
    peak: 1e-3,
    warmup: 100,
    end: Some(SHARP),
};
/// How much the latents' divergence from normal noise weighs beside the squared error of the
/// picture: enough to keep them small and smooth. The latents have a 48th of its values, so
/// they are kept more exact than where there are more.
const EVEN_DIVERGENCE: f64 = 3e-5;
/// The same beside the weighed absolute error.
const SHARP_DIVERGENCE: f64 = 5e-4;
/// The weight of a pixel of a thing, or beside one; that of others is 1.
const THING: f32 = 8.0;
/// Pixels that count as beside a thing.
const BESIDE: usize = 2;
/// Absolute errors are smooth below this.
const SMOOTH: f64 = 1e-2;

pub(crate) fn make(options: &Options) -> Result<()> {
    let mut trainer = Autoencoder::new(options.seed)?;
    Stage::Vae.train(options, EVEN + SHARP, &mut trainer)
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
    accumulation: GradientAccumulation,
    seed: u64,
}

impl Autoencoder {
    fn new(seed: u64) -> Result<Self> {
        let fresh = RandomInit::new(seed).trainable();
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
            accumulation: accumulation(BATCH, ROWS)?,
            seed,
        })
    }
}

impl Trainer for Autoencoder {
    fn step(&mut self, step: usize) -> icd::Result<Metrics> {
        let [pictures, weights] = pictures(self.seed, step)?;
        let (c, h, w) = configs::LATENT;
        let noise = Noise::new(self.seed ^ step as u64).normal((BATCH, c, h, w), &Device::Cpu)?;
        let ([_, error, divergence], gradients) =
            self.accumulation.learn(&self.optimiser, |part| {
                let of = |x: &Tensor| x.narrow(0, part.start, part.len());
                let posterior = self.vae.encode(&of(&pictures)?)?;
                let latent = posterior.sample(&of(&noise)?)?;
                let square = (self.vae.decode(&latent)? - of(&pictures)?)?.sqr()?;
                let (error, divergence) = (square.mean_all()?, posterior.kl()?);
                let loss = if step < EVEN {
                    (&error + (&divergence * EVEN_DIVERGENCE)?)?
                } else {
                    let absolute = (square + SMOOTH * SMOOTH)?.sqrt()?;
                    let absolute = absolute.broadcast_mul(&of(&weights)?)?.mean_all()?;
                    (absolute + (&divergence * SHARP_DIVERGENCE)?)?
                };
                Ok([loss, error, divergence])
            })?;
        let rate = match step.checked_sub(EVEN) {
            None => EVEN_RATE.at(step),
            Some(step) => SHARP_RATE.at(step),
        };
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

/// The pictures (b, 3, h, w) of a step, and the weights (b, 1, h, w) of their pixels.
fn pictures(seed: u64, step: usize) -> icd::Result<[Tensor; 2]> {
    let draw = |i: usize| -> icd::Result<_> {
        let mut dice = dice(seed, (step * BATCH + i) as u64);
        let scene = Scene::any(&mut dice);
        let weights = match step < EVEN {
            true => vec![1.0; SIDE * SIDE],
            false => weights(&scene.covered()),
        };
        let weights = Tensor::from_vec(weights, (1, 1, SIDE, SIDE), &Device::Cpu)?;
        Ok((scene.render().to_tensor(&Device::Cpu)?, weights))
    };
    let drawn: icd::Result<Vec<_>> = (0..BATCH).into_par_iter().map(draw).collect();
    let (pictures, weights): (Vec<_>, Vec<_>) = drawn?.into_iter().unzip();
    Ok([Tensor::cat(&pictures, 0)?, Tensor::cat(&weights, 0)?])
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
