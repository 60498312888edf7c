//! Draws a caption from several seeds, on one sheet.
//!
//! ```text
//! cargo run --release --example variations -- "at the front left a large red ball on a marble table \
//!     before a teal wall in warm light" sheet.png
//! ```

use std::{env, path::Path};

use candle_core::Tensor;
use icd::{
    diffusion::Silent,
    guidance::{Guidance, Tau},
    model::{Model, ModelChoice},
    nn::Placement,
    noise::Noise,
    picture::sheet::sheet,
    pipeline::{Pipeline, Residency},
};

const CAPTION: &str =
    "at the front left a large red ball on a marble table before a teal wall in warm light";

fn main() -> anyhow::Result<()> {
    let mut words = env::args().skip(1);
    let caption = words.next().unwrap_or(CAPTION.into());
    let output = words.next().unwrap_or("variations.png".into());
    draw(&caption, Path::new(&output))
}

/// Draws the caption from eight seeds.
pub(crate) fn draw(caption: &str, output: &Path) -> anyhow::Result<()> {
    let model = Model::open(&ModelChoice::named("tabletop"), Placement::cpu_f32())?;

    let side = model.unet_config().sample_size;
    let noise = |seed| Noise::new(seed).normal((1, 4, side, side), model.device());
    let noises = (0..8).map(noise).collect::<icd::Result<Vec<_>>>()?;
    let guidance = Guidance::new(model.generation_guidance(), Tau::CONSTANT)?;

    let pipeline = Pipeline::new(model, Residency::OneAtATime);
    let latents = pipeline.generate(caption, &noises, guidance, &mut Silent)?;
    let pictures = pipeline.decode(&Tensor::cat(&latents, 0)?, &mut Silent)?;
    Ok(sheet(&[pictures])?.write(output)?)
}
