//! The tensors of a file of an inverted picture.

use candle_core::{DType, Device, Tensor};
use safetensors::{SafeTensors, tensor::TensorView};

use super::{LATENT, NULL_EMBEDDING, TRAJECTORY};
use crate::{
    diffusion::{Inverted, NullEmbeddings, Trajectory},
    schedule::{TIMESTEPS, Timestep},
};

/// The latents of a file.
pub(super) fn inverted(tensors: &SafeTensors) -> Result<Inverted, String> {
    let missing = || format!("it holds no tensor `{LATENT}`");
    let latent = tensors.tensor(LATENT).map_err(|_| missing())?;
    let latent = checked(LATENT, &latent, Form::Latent)?;
    let passed = of_timesteps(tensors, TRAJECTORY, Form::Latent)?;
    let is_other = |(_, before): &&(Timestep, Tensor)| before.dims() != latent.dims();
    if let Some((at, before)) = passed.iter().find(is_other) {
        let name = format!("{TRAJECTORY}{at}");
        return Err(format!(
            "its tensor {name:?} has shape {:?}, `{LATENT}` {:?}",
            before.dims(),
            latent.dims()
        ));
    }
    let optimised = of_timesteps(tensors, NULL_EMBEDDING, Form::Embedding)?;
    Ok(Inverted {
        latent,
        trajectory: Trajectory(passed),
        null_embeddings: NullEmbeddings(optimised),
    })
}

/// The tensors of a prefix by their timesteps, in ascending order.
fn of_timesteps(
    tensors: &SafeTensors,
    prefix: &str,
    form: Form,
) -> Result<Vec<(Timestep, Tensor)>, String> {
    let mut found = Vec::new();
    for (name, view) in tensors.iter() {
        let Some(at) = name.strip_prefix(prefix) else {
            continue;
        };
        let at = timestep(at).ok_or_else(|| format!("its tensor {name:?} has no timestep"))?;
        found.push((at, checked(name, &view, form)?));
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(found)
}

/// What a tensor of a file is.
#[derive(Clone, Copy)]
enum Form {
    Latent,
    Embedding,
}

impl Form {
    /// Its shape as it is told, and its rank.
    fn shape(self) -> (&'static str, usize) {
        match self {
            Self::Latent => ("(1, 4, h, w)", 4),
            Self::Embedding => ("(1, tokens, width)", 3),
        }
    }
}

/// A timestep as it is written.
fn timestep(text: &str) -> Option<Timestep> {
    let at: u16 = text.parse().ok()?;
    let is_known = usize::from(at) < TIMESTEPS && at.to_string() == text;
    is_known.then_some(Timestep(at))
}

/// A tensor of a file, in f32.
fn checked(name: &str, view: &TensorView, form: Form) -> Result<Tensor, String> {
    let tensor = || -> candle_core::Result<_> {
        let dtype = DType::try_from(view.dtype())?;
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        let tensor = tensor.to_dtype(DType::F32)?;
        let sum = tensor.abs()?.sum_all()?.to_scalar::<f32>()?;
        Ok((tensor, sum))
    };
    let (tensor, sum) = tensor().map_err(|error| error.to_string())?;
    let (shape, rank) = form.shape();
    if tensor.rank() != rank || view.shape()[0] != 1 {
        return Err(format!(
            "its tensor {name:?} has shape {:?}, not {shape}",
            tensor.dims()
        ));
    }
    if !sum.is_finite() {
        return Err(format!(
            "its tensor {name:?} has values that are not numbers"
        ));
    }
    Ok(tensor)
}
