//! A model's networks, and inversion, editing and generation with them (iCD, arXiv
//! 2406.14539).
//!
//! ```text
//! invert:   encode, add a little noise, walk the forward timesteps
//! edit:     walk the reverse timesteps, source and targets side by side
//! generate: walk the reverse timesteps from pure noise
//! ```
//!
//! Each step evaluates the network once for all rows: one for an inversion or a
//! generation; for an edit the source and its targets, or only the targets if nothing
//! reads the source. Many targets are evaluated in groups.

mod cost;
mod edit;
mod groups;
mod latents;
mod networks;

use std::{fmt::Display, num::NonZeroUsize, panic::resume_unwind, sync::Arc, thread};

use candle_core::Tensor;

pub use cost::{Cost, Workload};
pub use edit::{Edit, Edited, Outputs};
pub use latents::{InversionCache, Latents, Method};
pub use networks::Residency;

use networks::Networks;

use crate::{
    diffusion::{
        BatchConditioning, EmbeddedGuidance, Event, Inverted, Observer, Predictor, Recorder,
        Scoped, Walk,
    },
    error::Result,
    guidance::Guidance,
    model::{
        EncodedPrompts, LatentSampling, Model, TextEncoders, attention::NoControl, unet::Unet,
    },
    noise::Noise,
    picture::Picture,
    schedule::Timesteps,
};

/// A model and the networks of it that are in memory.
#[derive(Debug)]
pub struct Pipeline {
    networks: Networks,
    max_rows: usize,
}

impl Pipeline {
    /// A pipeline that keeps networks in memory as `residency` says. Each is loaded when
    /// it is needed.
    pub fn new(model: Model, residency: Residency) -> Self {
        Self {
            networks: Networks::new(model, residency),
            max_rows: groups::MAX_ROWS,
        }
    }

    /// The pipeline with another maximum of rows in one evaluation of the network, 8 by
    /// default. More are evaluated in groups, with the source in each: the results on a CPU
    /// are the same to the byte.
    #[must_use]
    pub fn with_max_rows(self, max_rows: NonZeroUsize) -> Self {
        Self {
            max_rows: max_rows.get(),
            ..self
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.networks.model()
    }

    /// Which networks are kept in memory.
    pub fn residency(&self) -> Residency {
        self.networks.residency()
    }

    /// The scaled latent (1, 4, h / 8, w / 8) of a picture (1, 3, h, w) in [-1, 1],
    /// sampled as the model's family does it.
    pub fn encode(
        &self,
        picture: &Tensor,
        noise: &mut Noise,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        observer.observe(Event::Begins("encoding the picture"));
        let vae = self.networks.vae()?;
        if vae.encodes_in_strips(picture)? {
            observer.observe(Event::Begins("encoding the picture in strips"));
        }
        let posterior = vae.encode(picture)?;
        let latent = match self.model().family().latent_sampling() {
            LatentSampling::Mode => posterior.mean()?,
            LatentSampling::Sample => {
                posterior.sample(&noise.normal(posterior.shape(), self.model().device())?)?
            }
        };
        observer.observe(Event::Value("encoded_latent", &latent));
        Ok(latent)
    }

    /// Encodes a picture (1, 3, h, w) in [-1, 1] and inverts it under its prompt without
    /// guidance: the inverted latent (1, 4, h / 8, w / 8) and those before it.
    pub fn invert(
        &self,
        picture: &Tensor,
        prompt: &str,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<Inverted> {
        let timesteps = self.model().forward_timesteps()?;
        let prepare = |observer: &mut dyn Observer| {
            let start = self.noised(picture, &timesteps, seed, observer)?;
            let text = encode_prompts(&*self.networks.text()?, &[("src", prompt)], observer)?;
            Ok((start, text))
        };
        let load = || self.networks.forward_unet();
        let waiting = "loading the forward network";
        let (((clean, start), text), unet) = while_loading(prepare, load, waiting, observer)?;
        observer.observe(Event::Begins("inverting"));
        let rows = BatchConditioning::one(text.states, Guidance::NONE);
        let mut scoped = Scoped {
            prefix: "invert.",
            observer: &mut *observer,
        };
        let predictor = EmbeddedGuidance::new(&unet, &rows)?;
        let walk = self.walk(&predictor, &timesteps);
        let mut recorder = Recorder::new(clean, start.clone(), &timesteps);
        let latent = walk.run(start, &mut recorder, &mut scoped)?;
        observer.observe(Event::Value("inverted_latent", &latent));
        Ok(recorder.inverted(latent))
    }

    /// The latent of a picture, and the same noised to the first of the timesteps.
    fn noised(
        &self,
        picture: &Tensor,
        timesteps: &Timesteps,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<(Tensor, Tensor)> {
        let mut noise = Noise::new(seed);
        let latent = self.encode(picture, &mut noise, observer)?;
        let start_noise = noise.normal(latent.shape(), self.model().device())?;
        let schedule = self.model().schedule();
        let start = schedule.add_noise(&latent, &start_noise, timesteps.start())?;
        observer.observe(Event::Value("start_noise", &start_noise));
        observer.observe(Event::Value("start_latent", &start));
        Ok((latent, start))
    }

    /// Denoises each noise (1, 4, h, w) to the latent of a new picture, one after
    /// another with the same networks.
    pub fn generate(
        &self,
        prompt: &str,
        noises: &[Tensor],
        guidance: Guidance,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Tensor>> {
        let prepare = |observer: &mut dyn Observer| {
            let text = self.networks.text_with_loras()?;
            encode_prompts(&text, &[("tgt", prompt)], observer)
        };
        let load = || self.networks.reverse_unet_with_loras();
        let waiting = "loading the reverse network";
        let (text, unet) = while_loading(prepare, load, waiting, observer)?;
        observer.observe(Event::Begins("generating"));
        let rows = BatchConditioning::one(text.states, guidance);
        let (timesteps, predictor) = (
            self.model().reverse_timesteps()?,
            EmbeddedGuidance::new(&unet, &rows)?,
        );
        let walk = self.walk(&predictor, &timesteps);
        let one = |(index, noise): (usize, &Tensor)| {
            observer.observe(Event::Picture(index));
            observer.observe(Event::Value("start_noise", noise));
            let latent = walk.run(noise.clone(), &mut NoControl, observer)?;
            observer.observe(Event::Value("latent", &latent));
            Ok(latent)
        };
        noises.iter().enumerate().map(one).collect()
    }

    /// Denoises an inverted latent (1, 4, h, w) under its own prompt, as it was inverted:
    /// without guidance and style LoRAs. Values are named `reconstruct.*`.
    pub fn reconstruct(
        &self,
        inverted: &Tensor,
        prompt: &str,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let mut scoped = Scoped {
            prefix: "reconstruct.",
            observer,
        };
        let prepare = |observer: &mut dyn Observer| {
            encode_prompts(&*self.networks.text()?, &[("src", prompt)], observer)
        };
        let load = || self.networks.reverse_unet();
        let waiting = "loading the reverse network";
        let (text, unet) = while_loading(prepare, load, waiting, &mut scoped)?;
        scoped.observe(Event::Begins("reconstructing"));
        let rows = BatchConditioning::one(text.states, Guidance::NONE);
        let timesteps = self.model().reverse_timesteps()?;
        let predictor = EmbeddedGuidance::new(&unet, &rows)?;
        let walk = self.walk(&predictor, &timesteps);
        let latent = walk.run(inverted.clone(), &mut NoControl, &mut scoped)?;
        scoped.observe(Event::Value("latent", &latent));
        Ok(latent)
    }

    /// The pictures of latents (n, 4, h, w), decoded one after another.
    pub fn decode(&self, latents: &Tensor, observer: &mut dyn Observer) -> Result<Vec<Picture>> {
        observer.observe(Event::Begins("decoding"));
        let vae = self.networks.vae()?;
        if vae.decodes_in_strips(&latents.narrow(0, 0, 1)?)? {
            observer.observe(Event::Begins("decoding in strips"));
        }
        let one = |row| Picture::from_tensor(&vae.decode(&latents.narrow(0, row, 1)?)?);
        (0..latents.dim(0)?).map(one).collect()
    }

    /// A walk on the model's noise schedule.
    fn walk<'a>(&'a self, predictor: &'a dyn Predictor, timesteps: &'a Timesteps) -> Walk<'a> {
        Walk {
            predictor,
            schedule: self.model().schedule(),
            timesteps,
        }
    }
}

/// Encodes named prompts and reports their states.
fn encode_prompts<N: Display>(
    text: &TextEncoders,
    prompts: &[(N, &str)],
    observer: &mut dyn Observer,
) -> Result<EncodedPrompts> {
    observer.observe(Event::Begins("encoding the prompts"));
    let texts: Vec<_> = prompts.iter().map(|(_, prompt)| *prompt).collect();
    let text = text.encode(&texts)?;
    for (row, (name, _)) in prompts.iter().enumerate() {
        let states = text.states.hidden_states.narrow(0, row, 1)?;
        observer.observe(Event::Value(&format!("text_{name}"), &states));
        if let Some(pooled) = &text.states.pooled {
            let pooled = pooled.narrow(0, row, 1)?;
            observer.observe(Event::Value(&format!("pooled_{name}"), &pooled));
        }
    }
    Ok(text)
}

/// Prepares a walk while another thread loads its network; `waiting` is reported once
/// only the network is missing.
fn while_loading<T>(
    prepare: impl FnOnce(&mut dyn Observer) -> Result<T>,
    load: impl FnOnce() -> Result<Arc<Unet>> + Send,
    waiting: &'static str,
    observer: &mut dyn Observer,
) -> Result<(T, Arc<Unet>)> {
    thread::scope(|scope| {
        let unet = scope.spawn(load);
        let prepared = prepare(observer)?;
        observer.observe(Event::Begins(waiting));
        let unet = unet.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok((prepared, unet))
    })
}
