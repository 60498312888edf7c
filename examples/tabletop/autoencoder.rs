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
    world::{Scene, dice},
};

const STEPS: usize = 8_000;
const BATCH: usize = 4;
/// Pictures that a thread learns at once.
const ROWS: usize = 2;
const RATE: LrSchedule = LrSchedule {
    peak: 1.5e-3,
    warmup: 200,
    end: Some(STEPS),
};
/// How much the latents' divergence from normal noise weighs beside the squared error of the
/// picture: enough to keep them small and smooth. The latents have a 48th of its values, so
/// they are kept more exact than where there are more.
const DIVERGENCE: f64 = 3e-5;

pub(crate) fn make(options: &Options) -> Result<()> {
    let mut trainer = Autoencoder::new(options.seed)?;
    Stage::Vae.train(options, STEPS, &mut trainer)
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
        let pictures = pictures(self.seed, step)?;
        let (c, h, w) = configs::LATENT;
        let noise = Noise::new(self.seed ^ step as u64).normal((BATCH, c, h, w), &Device::Cpu)?;
        let ([_, error, divergence], gradients) =
            self.accumulation.learn(&self.optimiser, |part| {
                let pictures = pictures.narrow(0, part.start, part.len())?;
                let posterior = self.vae.encode(&pictures)?;
                let latent = posterior.sample(&noise.narrow(0, part.start, part.len())?)?;
                let error = (self.vae.decode(&latent)? - &pictures)?.sqr()?.mean_all()?;
                let divergence = posterior.kl()?;
                let loss = (&error + (&divergence * DIVERGENCE)?)?;
                Ok([loss, error, divergence])
            })?;
        let norm = self.optimiser.step(&gradients, RATE.at(step))?;
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

/// The pictures (b, 3, h, w) of a step.
fn pictures(seed: u64, step: usize) -> icd::Result<Tensor> {
    let draw = |i: usize| {
        let mut dice = dice(seed, (step * BATCH + i) as u64);
        Scene::any(&mut dice).render().to_tensor(&Device::Cpu)
    };
    let drawn: icd::Result<Vec<_>> = (0..BATCH).into_par_iter().map(draw).collect();
    Ok(Tensor::cat(&drawn?, 0)?)
}
