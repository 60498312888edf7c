//! Edits a picture with the bundled model, by the library alone.
//!
//! ```text
//! cargo run --release --example edit -- edited.png
//! ```

use std::{env, path::Path};

use icd::{
    diffusion::Silent,
    guidance::Guidance,
    model::{Model, ModelChoice},
    nn::Placement,
    picture::Picture,
    pipeline::{Edit, Pipeline, Residency},
};

fn main() -> anyhow::Result<()> {
    let output = env::args().nth(1).unwrap_or("edited.png".into());
    edit(Path::new(&output))
}

/// Makes the blue mug of the still life green.
pub(crate) fn edit(output: &Path) -> anyhow::Result<()> {
    let model = Model::open(&ModelChoice::named("tabletop"), Placement::cpu_f32())?;

    let photo = Picture::read("examples/still-life.png".as_ref())?;
    let scene = |mug| {
        format!(
            "at the back left a large {mug} mug and at the front right a small red ball \
             on a wooden table before a cream wall in warm light"
        )
    };
    let guidance = Guidance::new(model.edit_guidance(), model.edit_tau()?)?;
    let edit = Edit::new(scene("blue"), scene("green"), guidance);

    let photo = photo.to_tensor(model.device())?;
    let pipeline = Pipeline::new(model, Residency::OneAtATime);
    let inverted = pipeline.invert(&photo, &edit.source, 0, &mut Silent)?;
    let edited = pipeline.edit(&inverted, &edit, &mut Silent)?;
    let pictures = pipeline.decode(&edited.targets, &mut Silent)?;
    Ok(pictures[0].write(output)?)
}
