//! Inversions, and reconstructions of what they inverted.

use candle_core::Tensor;

use super::{Method, NullText, Pipeline, encode_prompts, negative, predictor, while_loading};
use crate::{
    diffusion::{
        BatchConditioning, Event, Inverted, NullTextOptimiser, Observer, Recorder, Scoped,
        Unconditional,
    },
    error::Result,
    guidance::Guidance,
    model::{Conditioning, LatentSampling, attention::NoControl},
    noise::Noise,
    schedule::{DdimSteps, Timesteps},
};

/// The settings of an inversion.
#[derive(Clone, Debug, Default)]
pub struct Invert {
    /// What the picture shows.
    pub prompt: String,
    /// The seed of the noise; only consistency models and their autoencoders draw any.
    pub seed: u64,
    /// How it is inverted.
    pub method: Method,
}

/// The texts of an inversion: of its prompt, and of the one that null-text inversion begins
/// with.
struct Texts {
    own: Conditioning,
    begin: Option<Conditioning>,
}

impl Pipeline {
    /// Encodes a picture (1, 3, h, w) in [-1, 1] and inverts it under its prompt by the forward
    /// consistency model: the inverted latent (1, 4, h / 8, w / 8) and those before it.
    pub fn invert(
        &self,
        picture: &Tensor,
        prompt: &str,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<Inverted> {
        let invert = Invert {
            prompt: prompt.into(),
            seed,
            method: Method::Icd,
        };
        self.invert_by(&invert, picture, observer)
    }

    /// Encodes a picture (1, 3, h, w) in [-1, 1] and inverts it without guidance, as the
    /// settings say: the inverted latent (1, 4, h / 8, w / 8), those before it, and the
    /// embeddings of null-text inversion.
    pub fn invert_by(
        &self,
        invert: &Invert,
        picture: &Tensor,
        observer: &mut dyn Observer,
    ) -> Result<Inverted> {
        let method = &invert.method;
        let timesteps = method.forward_timesteps(self.model())?;
        let prepare = |observer: &mut dyn Observer| {
            let start = self.start(picture, (method, &timesteps), invert.seed, observer)?;
            Ok((start, self.texts(invert, observer)?))
        };
        let load = || self.networks.forward_unet(method);
        let waiting = "loading the forward network";
        let (((clean, start), texts), unet) = while_loading(prepare, load, waiting, observer)?;
        observer.observe(Event::Begins("inverting"));
        let rows = BatchConditioning::one(texts.own.clone(), Guidance::NONE);
        let mut scoped = Scoped {
            prefix: "invert.",
            observer: &mut *observer,
        };
        // Unguided: one evaluation, whatever the method.
        let predictor = predictor(&unet, &rows, None)?;
        let walk = self.walk(&*predictor, (&timesteps, method.solver()));
        let mut recorder = Recorder::new(clean, start.clone(), &timesteps);
        let latent =
            self.networks
                .with_device_memory(walk.run(start, &mut recorder, &mut scoped))?;
        observer.observe(Event::Value("inverted_latent", &latent));
        let inverted = recorder.inverted(latent);
        match (method, &texts.begin) {
            (Method::Nti(steps, null_text), Some(begin)) => {
                drop(predictor);
                drop(unet);
                let optimised = (*steps, null_text, [&texts.own, begin]);
                self.with_null_embeddings(inverted, optimised, observer)
            }
            _ => Ok(inverted),
        }
    }

    fn texts(&self, invert: &Invert, observer: &mut dyn Observer) -> Result<Texts> {
        let text = &*self.networks.text()?;
        let own = encode_prompts(text, &[("src", &invert.prompt)], observer)?.states;
        let begin = |null_text: &NullText, observer: &mut dyn Observer| {
            let begin = &null_text.begin;
            let states = encode_prompts(text, &[("negative", begin)], observer)?.states;
            negative(self.model(), Some(begin), states)
        };
        let null_text = invert.method.null_text();
        let begin = null_text.map(|null_text| begin(null_text, observer));
        Ok(Texts {
            own,
            begin: begin.transpose()?,
        })
    }

    fn with_null_embeddings(
        &self,
        inverted: Inverted,
        (steps, null_text, [text, begin]): (DdimSteps, &NullText, [&Conditioning; 2]),
        observer: &mut dyn Observer,
    ) -> Result<Inverted> {
        let unet = self.networks.differentiable_unet()?;
        observer.observe(Event::Begins("optimising the null embeddings"));
        let optimiser = NullTextOptimiser {
            unet: &unet,
            schedule: self.model().schedule(),
            steps,
            guidance: null_text.guidance,
            text,
            begin,
        };
        Ok(Inverted {
            null_embeddings: self
                .networks
                .with_device_memory(optimiser.run(&inverted, observer))?,
            ..inverted
        })
    }

    /// The latent of a picture, and where its walk begins: noised to the first of the timesteps,
    /// or, where the walk begins at 0, itself, as the mean of the encoder's distribution.
    fn start(
        &self,
        picture: &Tensor,
        (method, timesteps): (&Method, &Timesteps),
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<(Tensor, Tensor)> {
        let mut noise = Noise::new(seed);
        if *method != Method::Icd {
            let latent = self.encode_as(LatentSampling::Mode, picture, &mut noise, observer)?;
            return Ok((latent.clone(), latent));
        }
        let latent = self.encode(picture, &mut noise, observer)?;
        let start_noise = noise.normal(latent.shape(), self.model().device())?;
        let schedule = self.model().schedule();
        let start = schedule.add_noise(&latent, &start_noise, timesteps.start())?;
        observer.observe(Event::Value("start_noise", &start_noise));
        observer.observe(Event::Value("start_latent", &start));
        Ok((latent, start))
    }

    /// Denoises an inverted latent (1, 4, h, w) under its own prompt by the reverse consistency
    /// model, without guidance and style LoRAs.
    pub fn reconstruct(
        &self,
        inverted: &Tensor,
        prompt: &str,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let invert = Invert {
            prompt: prompt.into(),
            ..Invert::default()
        };
        self.reconstruct_by(&inverted.clone().into(), &invert, observer)
    }

    /// Denoises an inverted picture under its own prompt, as it was inverted: without style
    /// LoRAs and without guidance, unless that is what embeddings were optimised for. Values
    /// are named `reconstruct.*`.
    pub fn reconstruct_by(
        &self,
        inverted: &Inverted,
        invert: &Invert,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let mut scoped = Scoped {
            prefix: "reconstruct.",
            observer,
        };
        let method = &invert.method;
        let prepare = |observer: &mut dyn Observer| self.texts(invert, observer);
        let load = || self.networks.reverse_unet(method);
        let waiting = "loading the reverse network";
        let (texts, unet) = while_loading(prepare, load, waiting, &mut scoped)?;
        scoped.observe(Event::Begins("reconstructing"));
        let guidance = method.null_text();
        let guidance = guidance.map_or(Guidance::NONE, |null_text| null_text.guidance);
        let unconditional = texts.begin.map(|begin| Unconditional::PerStep {
            embeddings: inverted.null_embeddings.clone(),
            pooled: begin.pooled,
        });
        let rows = BatchConditioning::one(texts.own, guidance);
        let timesteps = method.reverse_timesteps(self.model())?;
        let predictor = predictor(&unet, &rows, unconditional.as_ref())?;
        let walk = self.walk(&*predictor, (&timesteps, method.solver()));
        let latent = walk.run(inverted.latent.clone(), &mut NoControl, &mut scoped);
        let latent = self.networks.with_device_memory(latent)?;
        scoped.observe(Event::Value("latent", &latent));
        Ok(latent)
    }
}
