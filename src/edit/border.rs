//! The borders of a walk: pictures and prompts become tensors, and what comes
//! out must be numbers.

use std::{panic::resume_unwind, thread};

use candle_core::{DType, Tensor};

use super::{Moment, Watch};
use crate::{
    error::{Error, Result},
    model::{Draw, Model, Text, TextReader, unet::Unet},
    noise::Noise,
};

/// The scaled latent of a picture, drawn as the model's family does it.
pub(super) fn encode(
    model: &Model,
    picture: &Tensor,
    noise: &mut Noise,
    watch: &mut Watch,
) -> Result<Tensor> {
    watch(Moment::Begins("encoding the picture"));
    let vae = model.vae()?;
    if vae.encodes_in_strips(picture)? {
        watch(Moment::Begins("encoding the picture in strips"));
    }
    let posterior = vae.encode(picture)?;
    let latent = match model.family().draw() {
        Draw::Mean => posterior.mean()?,
        Draw::Sample => posterior.sample(&noise.normal(posterior.shape(), model.device())?)?,
    };
    watch(Moment::Value("encoded_latent", &latent));
    Ok(latent)
}

/// Reads prompts with text encoders that `open` opens, and tells their states by
/// name.
pub(super) fn read(
    open: impl FnOnce() -> Result<TextReader>,
    prompts: &[&str],
    names: &[&str],
    watch: &mut Watch,
) -> Result<Text> {
    watch(Moment::Begins("reading the prompts"));
    let text = open()?.read(prompts)?;
    for (row, name) in names.iter().enumerate() {
        watch(Moment::Value(
            &format!("text_{name}"),
            &text.states.tokens.narrow(0, row, 1)?,
        ));
        if let Some(pooled) = &text.states.pooled {
            watch(Moment::Value(
                &format!("pooled_{name}"),
                &pooled.narrow(0, row, 1)?,
            ));
        }
    }
    Ok(text)
}

/// Prepares a walk while another thread loads its network; `loaded` names what
/// is waited for once all is prepared.
pub(super) fn alongside<T>(
    prepare: impl FnOnce(&mut Watch) -> Result<T>,
    load: impl FnOnce() -> Result<Unet> + Send,
    loaded: &'static str,
    watch: &mut Watch,
) -> Result<(T, Unet)> {
    thread::scope(|scope| {
        let unet = scope.spawn(load);
        let prepared = prepare(watch)?;
        watch(Moment::Begins(loaded));
        let unet = unet.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok((prepared, unet))
    })
}

/// Refuses latents with values that are not numbers.
pub(super) fn finite(x: Tensor) -> Result<Tensor> {
    let sum = x
        .to_dtype(DType::F32)?
        .abs()?
        .sum_all()?
        .to_scalar::<f32>()?;
    match sum.is_finite() {
        true => Ok(x),
        false => Err(Error::Numbers(
            "the network produced values that are not numbers: its weights are damaged, or overflow in \
             this --dtype"
                .into(),
        )),
    }
}
