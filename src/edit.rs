//! The paper's story: a picture walks into noise under one prompt and back
//! under another (iCD, arXiv 2406.14539).
//!
//! ```text
//! invert:   encode, add a little noise, walk the forward path
//! edit:     walk the reverse path, source and targets side by side
//! generate: walk the reverse path from pure noise
//! ```
//!
//! Each step evaluates the network once for all rows that are needed, and none
//! that are not: one row for an inversion or a generation; for an edit the
//! source and its targets, or the targets alone where nothing reads the source.

mod blend;
mod border;
mod confine;
mod control;
mod denoiser;
mod looks;
mod plan;
mod request;
mod span;
mod steer;
mod steering;
mod watch;

use candle_core::Tensor;

pub use blend::LocalBlend;
pub use confine::Confine;
pub use control::PromptToPrompt;
pub use denoiser::{Denoiser, Rows};
pub use looks::Looks;
pub use plan::{Amplify, Blend, ControlPlan, Mode, Stage};
pub use request::{Edit, Extras};
pub use span::{Reach, Span};
pub use steer::Steer;
pub use watch::{Moment, Watch};

use border::{alongside, encode, finite, read};
use request::Staged;

use crate::{
    error::Result,
    guidance::Guidance,
    model::{Model, attention::Untouched},
    noise::Noise,
    prompt::Prompt,
    schedule::Path,
};

/// Carries the latents `x` (rows, 4, h, w) along a path: predict the noise,
/// jump, and let `steer` have its say.
pub fn walk(
    net: &Denoiser,
    path: &Path,
    mut x: Tensor,
    steer: &mut dyn Steer,
    watch: &mut Watch,
) -> Result<Tensor> {
    for (step, segment) in path.segments().enumerate() {
        steer.begin(step, &x)?;
        // Detached: a network that is being trained keeps nothing of a walk.
        let eps = net.predict(&x, segment.from, steer)?.detach();
        x = net.schedule().jump(&x, &eps, segment)?;
        watch(Moment::Evaluated {
            step,
            of: path.jumps(),
            rows: net.rows(),
        });
        watch(Moment::Value(&format!("step{step}"), &x));
        x = steer.finish(x)?;
        watch(Moment::Value(&format!("step{step}.blended"), &x));
    }
    finite(x)
}

/// Encodes a picture (1, 3, h, w) in [-1, 1] and carries it into noise under
/// its prompt, unguided: the inverted latent (1, 4, h / 8, w / 8).
pub fn invert(
    model: &Model,
    picture: &Tensor,
    prompt: &str,
    seed: u64,
    watch: &mut Watch,
) -> Result<Tensor> {
    let path = model.forward_path()?;
    let prepare = |watch: &mut Watch| {
        let start = noised(model, picture, &path, seed, watch)?;
        Ok((start, read(|| model.text(), &[prompt], &["src"], watch)?))
    };
    let loaded = "loading the forward network";
    let ((start, text), unet) = alongside(prepare, || model.forward_unet(), loaded, watch)?;
    watch(Moment::Begins("inverting"));
    let rows = Rows::one(text.states, Guidance::NONE);
    let net = Denoiser::new(&unet, model.schedule(), &rows)?;
    let inverted = walk(
        &net,
        &path,
        start,
        &mut Untouched,
        &mut |moment| match moment {
            Moment::Value(name, value) => watch(Moment::Value(&format!("invert.{name}"), value)),
            other => watch(other),
        },
    )?;
    watch(Moment::Value("inverted_latent", &inverted));
    Ok(inverted)
}

/// The latent of a picture with as much noise as the path starts from.
fn noised(
    model: &Model,
    picture: &Tensor,
    path: &Path,
    seed: u64,
    watch: &mut Watch,
) -> Result<Tensor> {
    let mut noise = Noise::new(seed);
    let latent = encode(model, picture, &mut noise, watch)?;
    let start_noise = noise.normal(latent.shape(), model.device())?;
    let start = model
        .schedule()
        .add_noise(&latent, &start_noise, path.start())?;
    watch(Moment::Value("start_noise", &start_noise));
    watch(Moment::Value("start_latent", &start));
    Ok(start)
}

/// The latents that an edit led to.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The source walked back (1, 4, h, w), where it was needed.
    pub source: Option<Tensor>,
    /// The targets (targets, 4, h, w).
    pub targets: Tensor,
    /// The source prompt and those of the targets.
    pub prompts: Vec<Prompt>,
    /// Where their words looked, a row for each latent above, where it was
    /// asked for.
    pub looks: Option<Looks>,
}

/// Walks an inverted latent (1, 4, h, w) back under the source prompt, which
/// stays unguided, and under the target prompts at once.
pub fn edit(model: &Model, inverted: &Tensor, request: &Edit, watch: &mut Watch) -> Result<Edited> {
    let path = model.reverse_path()?;
    let prepare = |watch: &mut Watch| request.stage(model, &path, watch);
    let loaded = "loading the reverse network";
    let (staged, unet) = alongside(prepare, || model.reverse_unet(), loaded, watch)?;
    let Staged {
        rows,
        mut steering,
        prompts,
    } = staged;
    watch(Moment::Begins("editing"));
    let net = Denoiser::new(&unet, model.schedule(), &rows)?;
    let x = inverted.repeat((rows.count(), 1, 1, 1))?;
    let x = walk(&net, &path, x, &mut steering, watch)?;
    watch(Moment::Value("latent", &x));
    let sources = rows.count() - request.targets.len();
    Ok(Edited {
        source: (sources == 1).then(|| x.narrow(0, 0, 1)).transpose()?,
        targets: x.narrow(0, sources, request.targets.len())?,
        prompts,
        looks: steering.looks,
    })
}

/// Walks `noise` (1, 4, h, w) to the latent of a new picture.
pub fn generate(
    model: &Model,
    prompt: &str,
    noise: &Tensor,
    guidance: Guidance,
    watch: &mut Watch,
) -> Result<Tensor> {
    let prepare = |watch: &mut Watch| read(|| model.styled_text(), &[prompt], &["tgt"], watch);
    let loaded = "loading the reverse network";
    let (text, unet) = alongside(prepare, || model.reverse_unet(), loaded, watch)?;
    watch(Moment::Begins("generating"));
    let rows = Rows::one(text.states, guidance);
    let net = Denoiser::new(&unet, model.schedule(), &rows)?;
    watch(Moment::Value("start_noise", noise));
    let latent = walk(
        &net,
        &model.reverse_path()?,
        noise.clone(),
        &mut Untouched,
        watch,
    )?;
    watch(Moment::Value("latent", &latent));
    Ok(latent)
}
