//! A folder of inverted pictures, keyed by everything they depend on.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{
    error::Result,
    io::Existing,
    model::Model,
    picture::Picture,
    pipeline::{Invert, Latents, Method},
};

/// A folder of inverted pictures. Its files are those of `icd invert` and may be deleted
/// at any time.
#[derive(Clone, Debug)]
pub struct InversionCache {
    folder: PathBuf,
}

impl InversionCache {
    /// The folder is created with its first file.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The file of a fitted picture that `model` inverts as the settings say.
    pub fn file(&self, model: &Model, picture: &Picture, invert: &Invert) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        let method = &invert.method;
        // Methods that draw no noise have one file for all seeds.
        let seed = match method {
            Method::Icd => invert.seed,
            Method::Ddim(_) | Method::Npi(_) | Method::Nti(..) => 0,
        };
        let parts = [
            env!("CARGO_PKG_VERSION").to_owned(),
            model.inversion_key()?,
            method.forward_timesteps(model)?.to_string(),
            picture.size().to_string(),
            seed.to_string(),
            invert.prompt.clone(),
        ];
        for part in parts.into_iter().chain(method.inversion_key()) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(picture.pixels());
        let mut name = [0; 16];
        name.copy_from_slice(&hash.finalize()[..16]);
        let name = u128::from_be_bytes(name);
        Ok(self.folder.join(format!("{name:032x}.latents.safetensors")))
    }

    /// The contents of `file`; `None` if it is no file, cannot be read, is no latent of the
    /// picture in this model, does not serve the method, or does not tell how it got there: the
    /// next [`put`](Self::put) replaces it.
    pub fn get(
        &self,
        file: &Path,
        model: &Model,
        (picture, method): (&Picture, &Method),
    ) -> Option<Latents> {
        if !file.is_file() {
            return None; // a pipe would be waited for
        }
        let found = Latents::read(file).ok()?;
        found.check_origin(file, model).ok()?;
        found.check_method(file, method).ok()?;
        let size = model.latent_size(picture.size()).ok()?;
        let shape = [size.height, size.width];
        let inverted = &found.inverted;
        let is_whole = inverted.latent.dims()[2..] == shape && !inverted.trajectory.is_empty();
        is_whole.then_some(found)
    }

    /// Writes an inverted picture. What is there must be a file: a pipe would be waited for.
    pub fn put(&self, file: &Path, latents: &Latents) -> Result<()> {
        if file.exists() && !file.is_file() {
            let reason = "it is no regular file: remove it, or choose another cache";
            return Err(crate::Error::weights(file, reason));
        }
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| crate::Error::io(&self.folder, error))?;
        latents.write(file, Existing::Replace)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::{
        model::ModelChoice,
        nn::Placement,
        picture::{Size, tests::noise},
        pipeline::NullText,
        schedule::DdimSteps,
    };

    fn model(dtype: DType, path: &str) -> Model {
        let choice = ModelChoice {
            model: "tabletop".into(),
            forward_timesteps: (!path.is_empty()).then(|| path.parse().unwrap()),
            ..ModelChoice::default()
        };
        let device = Device::Cpu;
        Model::open(&choice, Placement::new(dtype, device)).unwrap()
    }

    #[test]
    fn whatever_changes_an_inversion_changes_its_file() {
        let cache = InversionCache::new("cache");
        let usual = model(DType::F32, "");
        let picture = noise(8, 8);
        let of = |prompt: &str, seed, method| Invert {
            prompt: prompt.into(),
            seed,
            method,
        };
        let steps = |count| DdimSteps::new(count).unwrap();
        let icd = |prompt, seed| of(prompt, seed, Method::Icd);
        let ddim = |count| of("a bird", 0, Method::Ddim(steps(count)));
        let nti = |begin: &str| {
            let null_text = NullText {
                begin: begin.into(),
                ..NullText::default()
            };
            of("a bird", 0, Method::Nti(steps(50), null_text))
        };
        let file = |invert: &Invert| cache.file(&usual, &picture, invert);
        let first = file(&icd("a bird", 0)).unwrap();
        assert_eq!(first, file(&icd("a bird", 0)).unwrap());
        let npi = of("a bird", 7, Method::Npi(steps(50)));
        assert_eq!(file(&npi).unwrap(), file(&ddim(50)).unwrap());
        let wide = Picture::new(Size::new(16, 4), picture.pixels().to_vec()).unwrap();
        let bird = &icd("a bird", 0);
        let others = [
            file(&icd("a bird", 1)),
            file(&icd("a bird ", 0)),
            cache.file(&usual, &wide, bird),
            cache.file(&usual, &noise(8, 9), bird),
            cache.file(&model(DType::F16, ""), &picture, bird),
            cache.file(&model(DType::F32, "19,500,999"), &picture, bird),
            file(&ddim(50)),
            file(&ddim(20)),
            file(&nti("")),
            file(&nti("blurred")),
        ];
        let mut names: Vec<_> = others.map(Result::unwrap).to_vec();
        names.push(first);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 11);
    }
}
