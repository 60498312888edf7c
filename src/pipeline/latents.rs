//! Files of inverted pictures (safetensors: tensor `latent`, those before it as
//! `trajectory.TIMESTEP`, the embeddings of null-text inversion as `null_embedding.TIMESTEP`, and
//! metadata).

mod cache;
mod stated;
mod tensors;

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use safetensors::SafeTensors;

use crate::{
    diffusion::Inverted,
    error::{Error, Result},
    io::{Existing, Metadata, encoded_tensors, read_file, write_file},
    model::Model,
    picture::{
        Picture, Size,
        fit::{Canvas, Fit},
    },
};

pub use cache::InversionCache;

use super::Method;
use stated::{METHOD, check_embeddings, method, stated};
use tensors::inverted;

/// The name of the inverted latent, and the prefix of those before it.
const LATENT: &str = "latent";
const TRAJECTORY: &str = "trajectory.";
/// The prefix of the embeddings of null-text inversion.
const NULL_EMBEDDING: &str = "null_embedding.";

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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::{
        diffusion::{NullEmbeddings, Trajectory},
        guidance::{Guidance, Tau},
        io::write_tensors,
        pipeline::NullText,
        schedule::{DdimSteps, Timestep},
    };

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

    /// Latents of null-text inversion in two steps, with embeddings for these timesteps.
    fn null_text(timesteps: &[u16]) -> Latents {
        let x = |shape: &[usize]| Tensor::full(0.5f32, shape, &Device::Cpu).unwrap();
        let embeddings = timesteps.iter();
        let embeddings = embeddings
            .map(|&at| (Timestep(at), x(&[1, 3, 2])))
            .collect();
        let guidance = Guidance::classifier_free(5.5, Tau::step(0.8).unwrap()).unwrap();
        let begin = "blurred".to_owned();
        let steps = DdimSteps::new(2).unwrap();
        Latents {
            method: Method::Nti(steps, NullText { guidance, begin }),
            inverted: Inverted {
                null_embeddings: NullEmbeddings(embeddings),
                ..x(&[1, 4, 2, 2]).into()
            },
            prompt: String::new(),
            model: String::new(),
            notes: HashMap::new(),
        }
    }

    #[test]
    fn null_text_inversions_state_all_that_an_edit_needs() {
        let file = Path::new("x.safetensors");
        let written = null_text(&[1, 501]);
        let read = Latents::decode(&written.encoded().unwrap(), file).unwrap();
        assert_eq!(read.method, written.method);
        let at: Vec<_> = read
            .inverted
            .null_embeddings
            .0
            .iter()
            .map(|(at, _)| at.0)
            .collect();
        assert_eq!(at, [1, 501]);
        assert!(read.notes.is_empty());
    }

    #[test]
    fn what_a_method_lacks_is_named() {
        let file = Path::new("x.safetensors");
        let told = |latents: &Latents| {
            let read = Latents::decode(&latents.encoded().unwrap(), file);
            read.unwrap_err().to_string()
        };
        assert!(told(&null_text(&[1])).contains("null_embedding.501"));
        let mut wrong = null_text(&[1, 501]);
        let x = Tensor::ones((1, 3), DType::F32, &Device::Cpu).unwrap();
        wrong.inverted.null_embeddings.0[0].1 = x;
        assert!(told(&wrong).contains("null_embedding.1"));
        for (name, key) in [("ddim", "steps"), ("other", "other")] {
            let mut stated = null_text(&[]);
            stated.method = Method::Icd;
            let x = stated.inverted.latent.clone();
            let notes = HashMap::from([("method".to_owned(), name.to_owned())]);
            let bytes = encoded_tensors(&vec![("latent".into(), x)], &notes).unwrap();
            let told = Latents::decode(&bytes, file).unwrap_err().to_string();
            assert!(told.contains(key), "{told}");
        }
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
