//! How much of a picture survives the way into noise and back, by the guidance
//! of its own caption: prints the PSNR for several strengths.
//!
//! ```text
//! cargo run --release --example roundtrip
//! ```

#![expect(clippy::print_stdout, reason = "it prints")]

use icd::{
    edit::{generate, invert},
    guidance::{Guidance, Tau},
    model::{Model, ModelChoice},
    nn::Storage,
    picture::Picture,
};

const CAPTION: &str = "on the left a large blue star and on the right a large orange heart on a grey striped background";

fn main() -> anyhow::Result<()> {
    let model = Model::open(&ModelChoice::named("shapes"), Storage::plain())?;
    let photo = Picture::read("examples/scene.png".as_ref())?;
    let noise = invert(
        &model,
        &photo.to_tensor(model.device())?,
        CAPTION,
        0,
        &mut |_| {},
    )?;
    for (strength, tau) in [(0.0, 1.0), (4.0, 0.4), (4.0, 0.7), (4.0, 1.0)] {
        let guidance = Guidance::new(strength, Tau::step(tau)?)?;
        let latent = generate(&model, CAPTION, &noise, guidance, &mut |_| {})?;
        let back = Picture::from_tensor(&model.vae()?.decode(&latent)?)?;
        let psnr = photo.psnr(&back)?;
        println!("guidance {strength}, tau {tau}: {psnr:.1} dB");
    }
    Ok(())
}
