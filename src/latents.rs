//! Files of latents: an inverted picture with all that an edit must know of
//! it (safetensors: tensor `latent`, and a metadata table).

mod cache;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use safetensors::{SafeTensors, tensor::serialize};

use crate::{
    error::{Error, Result},
    file::write_beside,
    model::Model,
    picture::{Size, fit::Canvas},
};

pub use cache::Cache;

/// Notes that say how a photo was brought to size.
const SIZE: &str = "size";
const FIT: &str = "fit";
const PHOTO: &str = "photo";

/// What is noted beside tensors: a safetensors file's metadata.
pub type Notes = HashMap<String, String>;

/// Tensors by name, in the order of their names.
pub type Tensors = Vec<(String, Tensor)>;

/// An inverted picture.
#[derive(Clone, Debug)]
pub struct Latents {
    /// The latent (1, 4, h, w).
    pub latent: Tensor,
    /// What the picture shows.
    pub prompt: String,
    /// Which UNet inverted it; see [`Model::identity`](crate::model::Model::identity).
    pub model: String,
    /// Everything else that was noted: seed, paths, size, fit, version.
    pub notes: Notes,
}

impl Latents {
    /// Reads what [`write`](Self::write) wrote.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).map_err(|error| Error::io(file, error))?;
        let fault = |reason: &dyn ToString| Error::weights(file, reason.to_string());
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| fault(&error))?;
        let view = tensors
            .tensor("latent")
            .map_err(|_| fault(&"it holds no tensor `latent`"))?;
        let dtype = DType::try_from(view.dtype()).map_err(|error| fault(&error))?;
        let latent = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| fault(&error))?;
        let mut notes = header.metadata().clone().unwrap_or_default();
        let latent = latent.to_dtype(DType::F32)?;
        if latent.rank() != 4 || latent.dim(0)? != 1 {
            return Err(fault(&format!(
                "its latent has shape {:?}, not (1, 4, h, w)",
                latent.dims()
            )));
        }
        let mut take = |key| notes.remove(key).unwrap_or_default();
        Ok(Self {
            latent,
            prompt: take("prompt"),
            model: take("model"),
            notes,
        })
    }

    /// Refuses latents that `model` cannot walk back; `file` is for the message.
    pub fn check_origin(&self, file: &Path, model: &Model) -> Result<()> {
        let identity = model.identity()?;
        if !self.model.is_empty() && self.model != identity {
            let reason = format!(
                "they were inverted by another model ({}, here {identity})",
                self.model
            );
            return Err(Error::weights(file, reason));
        }
        let (found, wanted) = (self.latent.dim(1)?, model.unet_config().latent_channels);
        if found != wanted {
            let reason = format!("its latent has {found} channels, the model wants {wanted}");
            return Err(Error::weights(file, reason));
        }
        Ok(())
    }

    /// How the photo was placed, and its size; none where that was not noted.
    pub fn placing(&self) -> Option<(Canvas, Size)> {
        let note = |key| self.notes.get(key);
        let canvas = Canvas {
            size: note(SIZE)?.parse().ok()?,
            fit: note(FIT)?.parse().ok()?,
        };
        Some((canvas, note(PHOTO)?.parse().ok()?))
    }

    /// The notes that [`placing`](Self::placing) reads.
    pub fn placing_notes(canvas: Canvas, photo: Size) -> Notes {
        let notes = [
            (SIZE, canvas.size.to_string()),
            (FIT, canvas.fit.to_string()),
            (PHOTO, photo.to_string()),
        ];
        let notes = notes.into_iter();
        notes.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Writes the latent in f32 with its metadata, never half a file.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut notes = self.notes.clone();
        notes.insert("prompt".into(), self.prompt.clone());
        notes.insert("model".into(), self.model.clone());
        write_tensors(file, &vec![("latent".into(), self.latent.clone())], notes)
    }
}

/// Writes tensors to a safetensors file, never half of one.
pub fn write_tensors(file: &Path, tensors: &Tensors, notes: Notes) -> Result<()> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor));
    let sorted: BTreeMap<_, _> = notes.clone().into_iter().collect();
    let mut bytes = serialize(views, Some(notes)).map_err(|error| Error::weights(file, error))?;
    sort_notes(&mut bytes, &sorted);
    write_beside(file, &bytes)
}

/// Puts the metadata of a safetensors file into the order of its keys, so that
/// the same values make the same file. It comes first in the header, and takes
/// as many bytes in every order.
fn sort_notes(bytes: &mut [u8], notes: &BTreeMap<String, String>) {
    const BEFORE: &[u8] = b"{\"__metadata__\":";
    let text = serde_json::to_string(notes).unwrap_or_default();
    let start = size_of::<u64>() + BEFORE.len();
    let place = bytes.get_mut(start..start + text.len());
    if let Some(place) = place.filter(|place| place.ends_with(b"}")) {
        place.copy_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let latent = Tensor::arange(0f32, 24., &Device::Cpu)
            .unwrap()
            .reshape((1, 4, 2, 3))
            .unwrap();
        let notes = HashMap::from([("seed".to_string(), "7".to_string())]);
        let written = Latents {
            latent,
            prompt: "a \"bird\" 🐦".into(),
            model: "sd15 0".into(),
            notes,
        };
        written.write(&file).unwrap();
        let read = Latents::read(&file).unwrap();
        assert_eq!(
            (&read.prompt, &read.model, &read.notes),
            (&written.prompt, &written.model, &written.notes)
        );
        let values = |l: &Latents| l.latent.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&read), values(&written));
    }

    #[test]
    fn the_same_values_make_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let x = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let bytes = |name: &str| {
            let notes = (0..20).map(|i| (format!("key {i}"), format!("\"value\" {i} ü")));
            let file = folder.path().join(name);
            write_tensors(&file, &vec![("x".into(), x.clone())], notes.collect()).unwrap();
            std::fs::read(file).unwrap()
        };
        assert!(bytes("a") == bytes("b"));
        let (_, header) = SafeTensors::read_metadata(&bytes("c")).unwrap();
        let notes = header.metadata().clone().unwrap();
        assert_eq!(notes.len(), 20);
        assert_eq!(notes["key 7"], "\"value\" 7 ü");
    }

    #[test]
    fn files_without_a_latent_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let x = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
        write_tensors(&file, &vec![("other".into(), x)], HashMap::new()).unwrap();
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
