//! Scenes as the UNet learns them: latents that are computed once, and captions
//! that are worded anew each time.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    io::{Checkpoint, Existing, write_tensors},
    model::vae::Vae,
};
use indicatif::ProgressBar;

use super::{
    Options, autoencoder,
    drawn::Drawn,
    stage::Stage,
    world::{Dice, Scene, Wording, dice},
};

/// Pictures that are encoded at once.
const AT_ONCE: usize = 32;

/// Latents of the scenes of a seed.
pub(crate) struct Scenes {
    /// Scaled to unit variance, (count, 4, 16, 16).
    latents: Tensor,
    /// What the autoencoder's latents are multiplied with for that.
    pub(crate) scale: f64,
    seed: u64,
}

impl Scenes {
    /// The scenes as the finished autoencoder encodes them, from a file where
    /// there is one.
    pub(crate) fn open(options: &Options) -> Result<Self> {
        let file = options.out.join("latents.safetensors");
        Stage::Vae.require(options)?;
        if !file.exists() {
            let vae = autoencoder::finished(options, 1.0)?;
            let latents = encoded(&vae, options)?;
            write_tensors(
                &file,
                &vec![("latents".into(), latents)],
                HashMap::new(),
                Existing::Replace,
            )?;
        }
        let latents = Checkpoint::open(&file)?.load("latents", &Device::Cpu)?;
        let mean = latents.mean_all()?.to_scalar::<f32>()?;
        let variance = (&latents - f64::from(mean))?.sqr()?.mean_all()?;
        let scale = 1.0 / f64::from(variance.to_scalar::<f32>()?).sqrt();
        Ok(Self {
            latents: (latents * scale)?,
            scale,
            seed: options.seed,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.latents.dims()[0]
    }

    /// The latents (b, 4, 16, 16) of these scenes.
    pub(crate) fn latents(&self, indices: &[usize]) -> icd::Result<Tensor> {
        let indices: Vec<_> = indices.iter().map(|&i| i as u32).collect();
        let indices = Tensor::new(indices, &Device::Cpu)?;
        Ok(self.latents.index_select(&indices, 0)?)
    }

    /// A caption of a scene.
    pub(crate) fn caption(&self, index: usize, words: &mut Dice) -> String {
        let scene = Scene::any(&mut dice(self.seed, index as u64));
        Wording::any(words).caption(&scene)
    }
}

fn encoded(vae: &Vae, options: &Options) -> Result<Tensor> {
    let drawn = Drawn::open(options)?;
    let bar = ProgressBar::new(options.scenes as u64).with_message("latents");
    let parts = (0..drawn.count()).step_by(AT_ONCE).map(|first| {
        let indices = first..(first + AT_ONCE).min(drawn.count());
        bar.set_position(first as u64);
        let picture = |index| drawn.picture(index).to_tensor(&Device::Cpu);
        let pictures: icd::Result<Vec<_>> = indices.map(picture).collect();
        Ok(vae.encode(&Tensor::cat(&pictures?, 0)?)?.mean()?)
    });
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
}
