//! How much of a picture survives the way into noise and back, by the guidance
//! of its own caption: prints the PSNR for several strengths.
//!
//! ```text
//! cargo run --release --example roundtrip
//! ```

#![expect(clippy::print_stdout, reason = "it prints")]

use icd::{
    diffusion::Silent,
    guidance::{Guidance, Tau},
    model::{Model, ModelChoice},
    nn::Placement,
    picture::Picture,
    pipeline::{Pipeline, Residency},
};

const CAPTION: &str = "at the back left a large blue mug and at the front right a small red ball \
                       on a wooden table before a cream wall in warm light";

fn main() -> anyhow::Result<()> {
    for (strength, tau, psnr) in measure()? {
        println!("guidance {strength}, tau {tau}: {psnr:.1} dB");
    }
    Ok(())
}

/// Guidance, tau and the PSNR of the picture that comes back.
pub(crate) fn measure() -> anyhow::Result<Vec<(f64, f64, f64)>> {
    let model = Model::open(&ModelChoice::named("tabletop"), Placement::cpu_f32())?;
    let photo = Picture::read("examples/still-life.png".as_ref())?;
    let picture = photo.to_tensor(model.device())?;
    let pipeline = Pipeline::new(model, Residency::All);
    let inverted = [pipeline.invert(&picture, CAPTION, 0, &mut Silent)?.latent];
    let mut measured = Vec::new();
    for (strength, tau) in [(0.0, 1.0), (4.0, 0.4), (4.0, 0.7), (4.0, 1.0)] {
        let guidance = Guidance::new(strength, Tau::step(tau)?)?;
        let latents = pipeline.generate(CAPTION, &inverted, guidance, &mut Silent)?;
        let back = pipeline.decode(&latents[0], &mut Silent)?;
        measured.push((strength, tau, photo.psnr(&back[0])?));
    }
    Ok(measured)
}
