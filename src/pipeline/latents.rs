//! Files of inverted pictures (safetensors: tensor `latent`, those before it as
//! `trajectory.TIMESTEP`, the embeddings of null-text inversion as `null_embedding.TIMESTEP`, and
//! metadata).

mod cache;

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use safetensors::{SafeTensors, tensor::TensorView};

use crate::{
    diffusion::{Inverted, NullEmbeddings, Trajectory},
    error::{Error, Result},
    guidance::{Guidance, Tau},
    io::{Existing, Metadata, encoded_tensors, read_file, write_file},
    model::{MethodName, Model},
    picture::{
        Picture, Size,
        fit::{Canvas, Fit},
    },
    schedule::{DdimSteps, TIMESTEPS, Timestep},
};

pub use cache::InversionCache;

use super::{Method, NullText};

/// The name of the inverted latent, and the prefix of those before it.
const LATENT: &str = "latent";
const TRAJECTORY: &str = "trajectory.";
/// The prefix of the embeddings of null-text inversion.
const NULL_EMBEDDING: &str = "null_embedding.";

/// Metadata keys: the inversion method, its steps, and what embeddings were optimised for.
const METHOD: &str = "method";
const STEPS: &str = "steps";
const GUIDANCE: &str = "guidance";
const TAU: &str = "tau";
const NEGATIVE_PROMPT: &str = "negative_prompt";
/// How a photo was resized.
const SIZE: &str = "size";
const FIT: &str = "fit";
const PHOTO: &str = "photo";
/// The photo's ICC colour profile, in Base64.
const PROFILE: &str = "profile";

/// An inverted picture.
#[derive(Clone, Debug)]
pub struct Latents {
    /// How it was inverted.
    pub method: Method,
    /// The latents.
    pub inverted: Inverted,
    /// What the picture shows.
    pub prompt: String,
    /// The model that inverted it; see [`Model::identity`].
    pub model: String,
    /// Other metadata: seed, timesteps, size, fit, version.
    pub notes: Metadata,
}

impl Latents {
    /// Reads what [`write`](Self::write) wrote.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = read_file(file).map_err(|error| Error::io(file, error))?;
        Self::decode(&bytes, file)
    }

    /// The latents of a file's bytes; `file` is for messages.
    pub fn decode(bytes: &[u8], file: &Path) -> Result<Self> {
        let fault = |reason: &dyn ToString| Error::weights(file, reason.to_string());
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| fault(&error))?;
        let inverted = inverted(&tensors).map_err(|reason| fault(&reason))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| fault(&error))?;
        let mut notes = header.metadata().clone().unwrap_or_default();
        let method = method(&mut notes).map_err(|reason| fault(&reason))?;
        check_embeddings(&method, &inverted.null_embeddings).map_err(|reason| fault(&reason))?;
        let mut take = |key| notes.remove(key).unwrap_or_default();
        Ok(Self {
            method,
            inverted,
            prompt: take("prompt"),
            model: take("model"),
            notes,
        })
    }

    /// Whether a file with tensors of these names holds an inverted picture and nothing else.
    pub fn are_all(names: &[String]) -> bool {
        let is_one = |name: &String| {
            name == LATENT
                || [TRAJECTORY, NULL_EMBEDDING]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        };
        names.iter().any(|name| name == LATENT) && names.iter().all(is_one)
    }

    /// Refuses latents of another model; `file` is for the message.
    pub fn check_origin(&self, file: &Path, model: &Model) -> Result<()> {
        let identity = model.identity()?;
        if !self.model.is_empty() && self.model != identity {
            let reason = format!(
                "they were inverted by another model ({}, here {identity}): invert the picture again",
                self.model
            );
            return Err(Error::weights(file, reason));
        }
        let (found, wanted) = (
            self.inverted.latent.dim(1)?,
            model.unet_config().in_channels,
        );
        if found != wanted {
            let reason = format!("its latent has {found} channels, the model requires {wanted}");
            return Err(Error::weights(file, reason));
        }
        let wanted = (
            model.tokenizers()?.context(),
            model.unet_config().cross_attention_dim,
        );
        let mut embeddings = self.inverted.null_embeddings.0.iter();
        let other = embeddings.find(|(_, own)| own.dims()[1..] != [wanted.0, wanted.1]);
        if let Some((at, own)) = other {
            let reason = format!(
                "its tensor {:?} has shape {:?}, the model requires (1, {}, {})",
                format!("{NULL_EMBEDDING}{at}"),
                own.dims(),
                wanted.0,
                wanted.1
            );
            return Err(Error::weights(file, reason));
        }
        Ok(())
    }

    /// Refuses latents that do not serve an edit by `method`; `file` is for the message.
    pub fn check_method(&self, file: &Path, method: &Method) -> Result<()> {
        if self.method.serves(method) {
            return Ok(());
        }
        let reason = format!(
            "they were inverted by {}, which does not serve an edit by {}: invert the picture \
             again, or edit by the method of the file",
            self.method.told(),
            method.told()
        );
        Err(Error::weights(file, reason))
    }

    /// How the photo was fitted, and its size; `None` if the file does not state it.
    pub fn placing(&self) -> Option<(Canvas, Size)> {
        let note = |key| self.notes.get(key);
        let canvas = Canvas {
            size: note(SIZE)?.parse().ok()?,
            fit: Fit::from_str(note(FIT)?, false).ok()?,
        };
        Some((canvas, note(PHOTO)?.parse().ok()?))
    }

    /// The photo's ICC colour profile; `None` if it has none of RGB.
    pub fn profile(&self) -> Option<Arc<[u8]>> {
        let profile = STANDARD.decode(self.notes.get(PROFILE)?).ok()?;
        (profile.get(16..20) == Some(b"RGB ")).then(|| profile.into())
    }

    /// The metadata that [`placing`](Self::placing) and [`profile`](Self::profile) read.
    pub fn photo_notes(canvas: Canvas, photo: &Picture) -> Metadata {
        let profile = photo.profile().map(|profile| STANDARD.encode(profile));
        let notes = [
            (SIZE, Some(canvas.size.to_string())),
            (FIT, Some(canvas.fit.to_string())),
            (PHOTO, Some(photo.size().to_string())),
            (PROFILE, profile),
        ];
        let notes = notes.into_iter();
        notes
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect()
    }

    /// Writes the latents in f32 with its metadata, atomically.
    pub fn write(&self, file: &Path, existing: Existing) -> Result<()> {
        write_file(file, &self.encoded()?, existing)
    }

    /// The bytes of the file that [`write`](Self::write) writes.
    pub fn encoded(&self) -> Result<Vec<u8>> {
        let mut notes = self.notes.clone();
        notes.insert(METHOD.into(), self.method.name().into());
        notes.extend(stated(&self.method));
        notes.insert("prompt".into(), self.prompt.clone());
        notes.insert("model".into(), self.model.clone());
        let Inverted {
            latent,
            trajectory,
            null_embeddings,
        } = &self.inverted;
        let passed = trajectory.0.iter();
        let passed = passed.map(|(at, latent)| (format!("{TRAJECTORY}{at}"), latent.clone()));
        let optimised = null_embeddings.0.iter();
        let optimised = optimised.map(|(at, own)| (format!("{NULL_EMBEDDING}{at}"), own.clone()));
        let latents = [(LATENT.to_owned(), latent.clone())].into_iter();
        encoded_tensors(&latents.chain(passed).chain(optimised).collect(), &notes)
    }
}

/// What the metadata state of a method beside its name.
fn stated(method: &Method) -> Vec<(String, String)> {
    let steps = method.steps().map(|steps| (STEPS, steps.to_string()));
    let optimised = method.null_text().map(|NullText { guidance, begin }| {
        [
            (GUIDANCE, guidance.strength().to_string()),
            (TAU, guidance.tau().to_string()),
            (NEGATIVE_PROMPT, begin.clone()),
        ]
    });
    let all = steps.into_iter().chain(optimised.into_iter().flatten());
    all.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The method that metadata state, which is removed from them. Older files do not state it:
/// there was one.
fn method(notes: &mut Metadata) -> Result<Method, String> {
    let Some(name) = notes.remove(METHOD) else {
        return Ok(Method::default());
    };
    let unknown = || format!("its method {name:?} is not known");
    let kind = MethodName::named(&name).ok_or_else(unknown)?;
    if kind == MethodName::Icd {
        return Ok(Method::Icd);
    }
    let mut take = |key: &str| {
        let missing = || format!("its metadata lack {key:?} of the method {name}");
        notes.remove(key).ok_or_else(missing)
    };
    let told = |key: &'static str| move |error: Error| format!("its {key}: {error}");
    let steps: DdimSteps = take(STEPS)?.parse().map_err(told(STEPS))?;
    Ok(match kind {
        MethodName::Icd => Method::Icd,
        MethodName::Ddim => Method::Ddim(steps),
        MethodName::Npi => Method::Npi(steps),
        MethodName::Nti => {
            let tau: Tau = take(TAU)?.parse().map_err(told(TAU))?;
            let scale = take(GUIDANCE)?;
            let scale = scale
                .parse()
                .map_err(|_| format!("its guidance {scale:?} is no number"))?;
            let guidance = Guidance::classifier_free(scale, tau).map_err(told(GUIDANCE))?;
            let begin = take(NEGATIVE_PROMPT)?;
            Method::Nti(steps, NullText { guidance, begin })
        }
    })
}

/// Refuses null-text inversions without an embedding for each of their steps.
fn check_embeddings(method: &Method, embeddings: &NullEmbeddings) -> Result<(), String> {
    let Method::Nti(steps, _) = method else {
        return Ok(());
    };
    let timesteps = steps.reverse();
    let mut jumps = timesteps.jumps();
    match jumps.find(|jump| embeddings.at(jump.from).is_none()) {
        Some(jump) => Err(format!(
            "it holds no tensor `{NULL_EMBEDDING}{}`",
            jump.from
        )),
        None => Ok(()),
    }
}

/// The latents of a file.
fn inverted(tensors: &SafeTensors) -> Result<Inverted, String> {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::io::write_tensors;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let latent = Tensor::arange(0f32, 24., &Device::Cpu).unwrap();
        let latent = latent.reshape((1, 4, 2, 3)).unwrap();
        let passed = |at, factor: f64| (Timestep(at), (&latent * factor).unwrap());
        let trajectory = Trajectory(vec![passed(0, 2.), passed(259, 3.)]);
        let notes = HashMap::from([("seed".to_string(), "7".to_string())]);
        let written = Latents {
            method: Method::Icd,
            inverted: Inverted {
                latent: latent.clone(),
                trajectory,
                null_embeddings: NullEmbeddings::default(),
            },
            prompt: "a \"bird\" 🐦".into(),
            model: "sd15 0".into(),
            notes,
        };
        written.write(&file, Existing::Keep).unwrap();
        let read = Latents::read(&file).unwrap();
        assert_eq!(
            (&read.prompt, &read.model, &read.notes),
            (&written.prompt, &written.model, &written.notes)
        );
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&read.inverted.latent), values(&latent));
        let passed = read.inverted.trajectory.0.iter();
        let passed: Vec<_> = passed.map(|(at, x)| (at.0, values(x)[1])).collect();
        assert_eq!(passed, [(0, 2.), (259, 3.)]);
    }

    #[test]
    fn a_trajectory_is_of_known_timesteps_and_whole_latents() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let x = |value: f32, side| Tensor::full(value, (1, 4, side, 2), &Device::Cpu).unwrap();
        for (name, tensor) in [
            ("trajectory.", x(0.0, 2)),
            ("trajectory.1000", x(0.0, 2)),
            ("trajectory.019", x(0.0, 2)),
            ("trajectory.19", x(0.0, 3)),
            ("trajectory.19", x(f32::NAN, 2)),
        ] {
            let tensors = vec![("latent".into(), x(1.0, 2)), (name.into(), tensor)];
            write_tensors(&file, &tensors, HashMap::new(), Existing::Replace).unwrap();
            let told = Latents::read(&file).unwrap_err().to_string();
            assert!(told.contains(name), "{told}");
        }
    }

    #[test]
    fn files_without_a_latent_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let x = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
        write_tensors(
            &file,
            &vec![("other".into(), x)],
            HashMap::new(),
            Existing::Replace,
        )
        .unwrap();
        assert!(
            Latents::read(&file)
                .unwrap_err()
                .to_string()
                .contains("latent")
        );
        std::fs::write(&file, b"text").unwrap();
        assert!(Latents::read(&file).is_err());
    }
}
