//! A model's networks, and inversion, editing and generation with them (iCD, arXiv
//! 2406.14539).
//!
//! ```text
//! invert:   encode, add a little noise, walk the forward timesteps
//! edit:     walk the reverse timesteps, source and targets side by side
//! generate: walk the reverse timesteps from pure noise
//! ```
//!
//! Other methods than consistency models ([`Method`]) do the same with the base model by DDIM.
//! Each step evaluates the network once for all rows: one for an inversion or a
//! generation; for an edit the source and its targets, or only the targets if nothing
//! reads the source. Many targets are evaluated in groups.

mod cost;
mod edit;
mod generate;
mod groups;
mod hint;
mod invert;
mod latents;
mod method;
mod networks;

use std::{
    fmt::Display,
    num::NonZeroUsize,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use candle_core::Tensor;

pub use cost::{Cost, Workload};
pub use edit::{Edit, Edited, Outputs};
pub use generate::Generate;
pub use hint::Hint;
pub use invert::Invert;
pub use latents::{InversionCache, Latents};
pub use method::{Method, NullText};
pub use networks::Residency;

use networks::Networks;

use crate::{
    diffusion::{
        BatchConditioning, ClassifierFree, EmbeddedGuidance, Event, Observer, Predictor, Solver,
        Unconditional, Walk,
    },
    error::{Error, Result},
    model::{
        Conditioning, EncodedPrompts, LatentSampling, Model, TextEncoders, unet::Unet, vae::Tiling,
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
    /// Whether a GPU had no memory for the autoencoder without strips.
    needs_strips: AtomicBool,
}

impl Pipeline {
    /// A pipeline that keeps networks in memory as `residency` says. Each is loaded when
    /// it is needed.
    pub fn new(model: Model, residency: Residency) -> Self {
        Self {
            networks: Networks::new(model, residency),
            max_rows: groups::MAX_ROWS,
            needs_strips: AtomicBool::new(false),
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
        let sampling = self.model().family().latent_sampling();
        self.encode_as(sampling, picture, noise, observer)
    }

    fn encode_as(
        &self,
        sampling: LatentSampling,
        picture: &Tensor,
        noise: &mut Noise,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        observer.observe(Event::Begins("encoding the picture"));
        let vae = self.networks.vae()?;
        if vae.encodes_in_strips(picture)? {
            observer.observe(Event::Begins("encoding the picture in strips"));
        }
        let encode = |tiling| vae.encode_tiled(picture, tiling);
        let posterior = self.with_room(vae.tiling(), observer, encode)?;
        let latent = match sampling {
            LatentSampling::Mode => posterior.mean()?,
            LatentSampling::Sample => {
                posterior.sample(&noise.normal(posterior.shape(), self.model().device())?)?
            }
        };
        observer.observe(Event::Value("encoded_latent", &latent));
        Ok(latent)
    }

    /// The pictures of latents (n, 4, h, w), decoded one after another.
    pub fn decode(&self, latents: &Tensor, observer: &mut dyn Observer) -> Result<Vec<Picture>> {
        observer.observe(Event::Begins("decoding"));
        let vae = self.networks.vae()?;
        if vae.decodes_in_strips(&latents.narrow(0, 0, 1)?)? {
            observer.observe(Event::Begins("decoding in strips"));
        }
        let one = |row| {
            let latent = latents.narrow(0, row, 1)?;
            let decode = |tiling| vae.decode_tiled(&latent, tiling);
            Picture::from_tensor(&self.with_room(vae.tiling(), observer, decode)?)
        };
        (0..latents.dim(0)?).map(one).collect()
    }

    /// A computation of the autoencoder; where a GPU has no memory for it, once more without the
    /// networks that are not in use, and in strips unless its tiling is off. Later ones begin in
    /// strips.
    fn with_room<T>(
        &self,
        tiling: Tiling,
        observer: &mut dyn Observer,
        compute: impl Fn(Tiling) -> Result<T>,
    ) -> Result<T> {
        let (strips, told) = match tiling {
            Tiling::Off => (Tiling::Off, "the GPU is out of memory: again"),
            _ => (Tiling::On, "the GPU is out of memory: again in strips"),
        };
        let first = match self.needs_strips.load(Ordering::Relaxed) {
            true => strips,
            false => tiling,
        };
        let computed = match compute(first) {
            Err(Error::OutOfMemory { .. }) => {
                observer.observe(Event::Begins(told));
                self.networks.free();
                self.needs_strips.store(true, Ordering::Relaxed);
                compute(strips)
            }
            computed => computed,
        };
        self.networks.with_device_memory(computed)
    }

    /// A walk on the model's noise schedule.
    fn walk<'a>(
        &'a self,
        predictor: &'a dyn Predictor,
        (timesteps, solver): (&'a Timesteps, Solver),
    ) -> Walk<'a> {
        Walk {
            predictor,
            schedule: self.model().schedule(),
            timesteps,
            solver,
        }
    }
}

/// The predictor of rows: with guidance as an input of the network, or with a text that
/// classifier-free guidance leads away from.
fn predictor<'a>(
    unet: &'a Unet,
    rows: &'a BatchConditioning,
    unconditional: Option<&Unconditional>,
) -> Result<Box<dyn Predictor + 'a>> {
    Ok(match unconditional {
        None => Box::new(EmbeddedGuidance::new(unet, rows)?),
        Some(text) => Box::new(ClassifierFree::new(unet, rows, text)?),
    })
}

/// The conditioning of a negative prompt, given its states: without one, that of no prompt.
fn negative(model: &Model, prompt: Option<&str>, states: Conditioning) -> Result<Conditioning> {
    match prompt.is_none_or(str::is_empty) && model.zeroes_empty_prompt()? {
        true => states.zeroed(),
        false => Ok(states),
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
    load: impl Fn() -> Result<Arc<Unet>> + Sync,
    waiting: &'static str,
    observer: &mut dyn Observer,
) -> Result<(T, Arc<Unet>)> {
    thread::scope(|scope| {
        let unet = scope.spawn(&load);
        let prepared = prepare(observer)?;
        observer.observe(Event::Begins(waiting));
        let unet = match unet.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            // There is room for it where nothing is prepared beside it.
            Err(Error::OutOfMemory { .. }) => load()?,
            loaded => loaded?,
        };
        Ok((prepared, unet))
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::atomic::AtomicUsize};

    use Tiling::{Auto, Off, On};

    use super::*;
    use crate::{model::ModelChoice, nn::Placement};

    #[test]
    fn an_autoencoder_without_room_computes_once_more_in_strips() {
        let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32());
        let pipeline = Pipeline::new(model.unwrap(), Residency::All);
        let computed = |tiling: Tiling, failures: usize| {
            let (tried, mut told) = (RefCell::new(Vec::new()), Vec::new());
            let mut observer = |event: Event| {
                if let Event::Begins(what) = event {
                    told.push(what);
                }
            };
            let compute = |tiling| {
                tried.borrow_mut().push(tiling);
                match tried.borrow().len() <= failures {
                    true => Err(candle_core::Error::Cuda("CUDA_ERROR_OUT_OF_MEMORY".into()).into()),
                    false => Ok(()),
                }
            };
            let result = pipeline.with_room(tiling, &mut observer, compute);
            (result.is_ok(), tried.into_inner(), told)
        };
        let again = "the GPU is out of memory: again";
        let in_strips = "the GPU is out of memory: again in strips";
        assert_eq!(computed(Auto, 0), (true, vec![Auto], vec![]));
        assert_eq!(computed(Auto, 1), (true, vec![Auto, On], vec![in_strips]));
        // The next one knows.
        assert_eq!(computed(Auto, 0), (true, vec![On], vec![]));
        assert_eq!(computed(Auto, 2), (false, vec![On, On], vec![in_strips]));
        assert_eq!(computed(Off, 1), (true, vec![Off, Off], vec![again]));
    }

    #[test]
    fn a_network_without_room_beside_what_is_prepared_is_loaded_after_it() {
        let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32());
        let networks = Networks::new(model.unwrap(), Residency::OneAtATime);
        let (prepared, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
        let load = || {
            if tries.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(candle_core::Error::Cuda("CUDA_ERROR_OUT_OF_MEMORY".into()).into());
            }
            assert!(prepared.load(Ordering::Relaxed), "not beside it");
            networks.forward_unet(&Method::Icd)
        };
        let prepare = |_: &mut dyn Observer| {
            prepared.store(true, Ordering::Relaxed);
            Ok(())
        };
        while_loading(prepare, load, "", &mut crate::diffusion::Silent).unwrap();
        assert_eq!(tries.into_inner(), 2);
    }

    /// Strips of a network whose pictures would stay whole.
    #[test]
    fn another_tiling_computes_the_same() {
        let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32());
        let vae = model.unwrap().vae().unwrap();
        let wave = |i: usize| (i as f32 * 0.37).sin();
        let latent: Vec<_> = (0..4 * 24 * 8).map(wave).collect();
        let latent = Tensor::from_vec(latent, (1, 4, 24, 8), vae.device()).unwrap();
        let [whole, strips] = [Tiling::Off, Tiling::On].map(|tiling| {
            let picture = vae.decode_tiled(&latent, tiling).unwrap();
            let mean = vae.encode_tiled(&picture, tiling).unwrap().mean().unwrap();
            [picture, mean].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        });
        for (whole, strips) in whole.iter().zip(&strips) {
            let gap = |(a, b): (&f32, &f32)| (a - b).abs();
            assert!(whole.iter().zip(strips).map(gap).fold(0.0, f32::max) < 1e-4);
            assert_ne!(whole, strips, "they differ by rounding");
        }
    }
}
