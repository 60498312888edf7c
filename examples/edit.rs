//! Edits a picture with the bundled toy model, by the library alone.
//!
//! ```text
//! cargo run --release --example edit -- edited.png
//! ```

use std::{env, path::Path};

use icd::{
    edit::{Edit, edit, invert},
    guidance::Guidance,
    model::{Model, ModelChoice},
    nn::Storage,
    picture::Picture,
};

fn main() -> anyhow::Result<()> {
    let output = env::args().nth(1).unwrap_or("edited.png".into());
    let model = Model::open(&ModelChoice::named("shapes"), Storage::plain())?;

    let photo = Picture::read("examples/scene.png".as_ref())?;
    let scene = |star| {
        format!(
            "on the left a large {star} star and on the right a large orange heart on a grey striped background"
        )
    };
    let noise = invert(
        &model,
        &photo.to_tensor(model.device())?,
        &scene("blue"),
        0,
        &mut |_| {},
    )?;
    let guidance = Guidance::new(model.edit_guidance(), model.edit_tau()?)?;
    let request = Edit::new(scene("blue"), scene("red"), guidance);
    let edited = edit(&model, &noise, &request, &mut |_| {})?;
    Ok(Picture::from_tensor(&model.vae()?.decode(&edited.targets)?)?.write(Path::new(&output))?)
}
