//! New pictures from noise.

use candle_core::Tensor;

use super::{Method, Pipeline, encode_prompts, negative, predictor, while_loading};
use crate::{
    diffusion::{BatchConditioning, Event, Observer, Unconditional},
    error::Result,
    guidance::Guidance,
    model::attention::NoControl,
};

/// The settings of a generation.
#[derive(Clone, Debug)]
pub struct Generate {
    /// What the picture shows.
    pub prompt: String,
    /// What it does not show: what classifier-free guidance leads away from; by default the
    /// empty prompt. Consistency models do not read it.
    pub negative_prompt: Option<String>,
    /// The guidance.
    pub guidance: Guidance,
    /// How noise becomes a picture; what a method does to invert one is of no account.
    pub method: Method,
}

impl Pipeline {
    /// Denoises each noise (1, 4, h, w) to the latent of a new picture by the reverse
    /// consistency model.
    pub fn generate(
        &self,
        prompt: &str,
        noises: &[Tensor],
        guidance: Guidance,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Tensor>> {
        let generate = Generate {
            prompt: prompt.into(),
            negative_prompt: None,
            guidance,
            method: Method::Icd,
        };
        self.generate_by(&generate, noises, observer)
    }

    /// Denoises each noise (1, 4, h, w) to the latent of a new picture, one after
    /// another with the same networks.
    pub fn generate_by(
        &self,
        generate: &Generate,
        noises: &[Tensor],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Tensor>> {
        let method = &generate.method;
        let blank = generate.negative_prompt.as_deref();
        let mut prompts = vec![("tgt", &*generate.prompt)];
        if *method != Method::Icd {
            prompts.push(("negative", blank.unwrap_or_default()));
        }
        let prepare = |observer: &mut dyn Observer| {
            let text = self.networks.text_with_loras()?;
            encode_prompts(&text, &prompts, observer)
        };
        let load = || self.networks.reverse_unet_with_loras(method);
        let waiting = "loading the reverse network";
        let (text, unet) = while_loading(prepare, load, waiting, observer)?;
        observer.observe(Event::Begins("generating"));
        let row = |row| text.states.rows([row].into_iter());
        let rows = BatchConditioning::one(row(0)?, generate.guidance);
        let unconditional = match *method {
            Method::Icd => None,
            _ => Some(Unconditional::Fixed(negative(
                self.model(),
                blank,
                row(1)?,
            )?)),
        };
        let timesteps = method.reverse_timesteps(self.model())?;
        let predictor = predictor(&unet, &rows, unconditional.as_ref())?;
        let walk = self.walk(&*predictor, (&timesteps, method.solver()));
        let one = |(index, noise): (usize, &Tensor)| {
            observer.observe(Event::Picture(index));
            observer.observe(Event::Value("start_noise", noise));
            let latent = walk.run(noise.clone(), &mut NoControl, observer);
            let latent = self.networks.with_device_memory(latent)?;
            observer.observe(Event::Value("latent", &latent));
            Ok(latent)
        };
        noises.iter().enumerate().map(one).collect()
    }
}
