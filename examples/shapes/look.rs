//! What the stages have learnt so far, as pictures and numbers: held-out scenes
//! beside their reconstructions, and pictures drawn from captions by the
//! teacher's many steps.

use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    distil::Levels,
    model::{Conditioning, Model, ModelChoice, attention::Untouched, unet::Input},
    noise::Noise,
    picture::{Picture, sheet::sheet},
    schedule::Timestep,
};
use rayon::prelude::*;

use super::{
    Options, autoencoder, base, storage,
    world::{HELD_OUT, Scene, Wording, dice, psnr},
};

/// Reconstructions that are measured.
const MEASURED: u64 = 200;
/// Pictures in a row of a sheet.
const ACROSS: usize = 10;
/// Steps of the teacher.
const STEPS: u16 = 50;
const GUIDANCE: f64 = 4.0;

/// Measures the autoencoder and draws `vae.png`.
pub(crate) fn autoencoder(options: &Options) -> Result<()> {
    let vae = autoencoder::finished(options, 1.0)?;
    let draw = |i| Scene::any(&mut dice(HELD_OUT, i)).render();
    let pictures: Vec<_> = (0..MEASURED).into_par_iter().map(draw).collect();
    let back = pictures
        .iter()
        .map(|picture| {
            let latent = vae.encode(&picture.to_tensor(&Device::Cpu)?)?.mean()?;
            Ok(Picture::from_tensor(&vae.decode(&latent)?)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let mean = pictures
        .iter()
        .zip(&back)
        .filter_map(|(a, b)| psnr(a, b, |_| true))
        .sum::<f64>()
        / MEASURED as f64;
    println!("{MEASURED} held-out scenes are reconstructed at {mean:.2} dB");
    let shown = [pictures, back].map(|row| row.into_iter().take(ACROSS).collect());
    sheet(&shown)?.write(&options.out.join("vae.png"))?;
    Ok(())
}

/// Draws `base.png`: scenes, and below each what the teacher makes of its caption.
pub(crate) fn teacher(options: &Options) -> Result<()> {
    base::export(options)?;
    let model = open(&options.out.join("model"))?;
    let scenes: Vec<_> = (0..ACROSS as u64)
        .map(|i| Scene::any(&mut dice(HELD_OUT, i)))
        .collect();
    let captions: Vec<_> = scenes
        .iter()
        .map(|scene| Wording::PLAIN.caption(scene))
        .collect();
    let latents = drawn(&model, &captions)?;
    let pictures = model.vae()?.decode(&latents)?;
    let drawn = (0..ACROSS).map(|i| Ok(Picture::from_tensor(&pictures.narrow(0, i, 1)?)?));
    let drawn: Vec<_> = drawn.collect::<Result<_>>()?;
    let shown = [scenes.iter().map(Scene::render).collect(), drawn];
    sheet(&shown)?.write(&options.out.join("base.png"))?;
    for caption in captions {
        println!("{caption}");
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Model> {
    let choice = ModelChoice::named(folder.display().to_string());
    Ok(Model::open(&choice, storage())?)
}

/// Latents by DDIM with classifier-free guidance.
fn drawn(model: &Model, captions: &[String]) -> Result<Tensor> {
    let unet = model.plain_unet()?;
    let prompts: Vec<_> = captions.iter().map(String::as_str).collect();
    let text = model.text()?;
    let told = unet.read(&text.read(&prompts)?.states)?;
    let untold: Conditioning = text.read(&vec![""; prompts.len()])?.states;
    let untold = unet.read(&untold)?;
    let count = prompts.len();
    let mut x = Noise::new(7).normal((count, 4, 16, 16), &Device::Cpu)?;
    for step in (0..STEPS).rev() {
        let (t, next) = (
            Timestep(19 + 20 * step),
            Timestep((20 * step).saturating_sub(1)),
        );
        let eps = |text| {
            let input = Input {
                latent: &x,
                times: &vec![t; count],
                guidance: &vec![0.0; count],
                text,
            };
            unet.forward(input, &mut Untouched)
        };
        let (with, without) = (eps(&told)?, eps(&untold)?);
        let eps = (&without + ((with - &without)? * GUIDANCE)?)?;
        let at = |t| Levels::at(model.schedule(), &vec![t; count], &Device::Cpu);
        x = at(t)?.jump(&x, &eps, &at(next)?)?;
    }
    Ok(x)
}
