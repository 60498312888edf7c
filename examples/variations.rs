//! Draws a caption from several seeds, on one sheet.
//!
//! ```text
//! cargo run --release --example variations -- "in the middle a large red star on a tan background" sheet.png
//! ```

use std::{env, path::Path};

use icd::{
    edit::generate,
    guidance::{Guidance, Tau},
    model::{Model, ModelChoice},
    nn::Storage,
    noise::Noise,
    picture::{Picture, sheet::sheet},
};

fn main() -> anyhow::Result<()> {
    let mut words = env::args().skip(1);
    let caption = words
        .next()
        .unwrap_or("in the middle a large red star on a tan background".into());
    let output = words.next().unwrap_or("variations.png".into());
    let model = Model::open(&ModelChoice::named("shapes"), Storage::plain())?;

    let (vae, side) = (model.vae()?, model.unet_config().side);
    let guidance = Guidance::new(model.generation_guidance(), Tau::CONSTANT)?;
    let drawn = (0..8).map(|seed| {
        let noise = Noise::new(seed).normal((1, 4, side, side), model.device())?;
        let latent = generate(&model, &caption, &noise, guidance, &mut |_| {})?;
        Picture::from_tensor(&vae.decode(&latent)?)
    });
    let drawn = drawn.collect::<icd::Result<Vec<_>>>()?;
    Ok(sheet(&[drawn])?.write(Path::new(&output))?)
}
