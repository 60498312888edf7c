//! What the stages have learnt so far, as pictures and numbers: held-out scenes
//! beside their reconstructions, and pictures drawn from captions by the
//! teacher's many steps.

use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    diffusion::{BatchConditioning, ClassifierFree, Silent, Solver, Unconditional, Walk},
    guidance::{Guidance, Tau},
    model::{Adapters, Model, ModelChoice, attention::NoControl, vae::Vae},
    noise::Noise,
    picture::{Picture, sheet::sheet},
    schedule::Timesteps,
};
use rayon::prelude::*;

use super::{
    Options, autoencoder, configs, export,
    stage::{Stage, storage},
    world::{HELD_OUT, Pair, Scene, Verdict, Wording, dice, psnr},
};

/// Reconstructions that are measured.
const MEASURED: u64 = 100;
/// Edits that are judged.
const JUDGED: u64 = 40;
/// Pictures in a row of a sheet.
const ACROSS: usize = 10;
/// Steps of the teacher.
const STEPS: u16 = 50;
/// 0 is unguided.
const GUIDANCE: f64 = 3.0;

/// Measures the autoencoder and draws `vae.png`. What it does not keep of a true edited
/// picture no edit of latents can show.
pub(crate) fn autoencoder(options: &Options) -> Result<()> {
    let vae = autoencoder::finished(options, 1.0)?;
    let draw = |i| Scene::any(&mut dice(HELD_OUT, i)).render();
    let pictures: Vec<_> = (0..MEASURED).into_par_iter().map(draw).collect();
    let back = pictures.iter().map(|picture| kept(&vae, picture));
    let back: Vec<_> = back.collect::<Result<_>>()?;
    let pairs = pictures.iter().zip(&back);
    let psnrs: Vec<_> = pairs.filter_map(|(a, b)| psnr(a, b, |_| true)).collect();
    println!(
        "{MEASURED} held-out scenes are reconstructed at {:.2} dB, the worst at {:.2}",
        psnrs.iter().sum::<f64>() / psnrs.len() as f64,
        psnrs.iter().copied().fold(f64::MAX, f64::min)
    );
    let judge = |index| -> Result<_> {
        let pair = Pair::numbered(Pair::SEED, index);
        let kept = kept(&vae, &pair.target.render())?;
        Ok(Verdict::of(&pair, &kept))
    };
    let verdicts: Vec<_> = (0..JUDGED).map(judge).collect::<Result<_>>()?;
    let wrong = verdicts.iter().filter(|verdict| !verdict.is_right);
    let wrong: Vec<_> = wrong.map(|verdict| verdict.change.name()).collect();
    println!("of {JUDGED} true edits these are judged wrong after it: {wrong:?}");
    let shown = [pictures, back].map(|row| row.into_iter().take(ACROSS).collect());
    sheet(&shown)?.write(&options.out.join("vae.png"))?;
    Ok(())
}

/// What the autoencoder keeps of a picture.
fn kept(vae: &Vae, picture: &Picture) -> Result<Picture> {
    let latent = vae.encode(&picture.to_tensor(&Device::Cpu)?)?.mean()?;
    Ok(Picture::from_tensor(&vae.decode(&latent)?)?)
}

/// Draws `base.png` or `grounding.png`: scenes, and below each what the teacher makes of its caption.
pub(crate) fn teacher(options: &Options, stage: Stage) -> Result<()> {
    export::model(options, stage)?;
    let model = open(&options.out.join("model"))?;
    let scenes: Vec<_> = (0..ACROSS as u64)
        .map(|i| Scene::any(&mut dice(HELD_OUT, i)).usual())
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
    sheet(&shown)?.write(&options.out.join(format!("{}.png", stage.name())))?;
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
    let unet = model.unet(Adapters::None)?;
    let prompts: Vec<_> = captions.iter().map(String::as_str).collect();
    let (text, count) = (model.text()?, prompts.len());
    let rows = BatchConditioning {
        text: text.encode(&prompts)?.states,
        early: None,
        guidance: vec![Guidance::new(GUIDANCE, Tau::CONSTANT)?; count],
    };
    let empty = Unconditional::Fixed(text.encode(&[""])?.states);
    let timesteps: Vec<_> = (0..STEPS)
        .rev()
        .map(|step| 19 + 20 * step)
        .chain([0])
        .collect();
    let walk = Walk {
        predictor: &ClassifierFree::new(&unet, &rows, &empty)?,
        schedule: model.schedule(),
        timesteps: &Timesteps::reverse(&timesteps)?,
        solver: Solver::Consistency,
    };
    let (c, h, w) = configs::LATENT;
    let noise = Noise::new(7).normal((count, c, h, w), &Device::Cpu)?;
    Ok(walk.run(noise, &mut NoControl, &mut Silent)?)
}
