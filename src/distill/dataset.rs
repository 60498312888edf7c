//! Captioned pictures: a folder with a `metadata.jsonl` (a line
//! `{"file_name": .., "text": ..}` for each picture), or with a `.txt` beside
//! each picture.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Error, Result},
    io::{Checkpoint, Existing, Source, Tensors, read_file, safetensors_metadata, write_tensors},
    model::{
        Model,
        vae::{Posterior, Vae},
    },
    noise::Noise,
    picture::{
        Picture, Size,
        fit::{Fit, fitted},
        is_animated,
    },
};

/// Extensions of pictures.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];
/// That of captions.
const CAPTION: &str = "txt";
/// The list of pictures and captions.
const LIST: &str = "metadata.jsonl";
/// The metadata key of a cache's origin.
const ORIGIN: &str = "icd.pictures";

/// A picture file with its caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captioned {
    /// The picture.
    pub file: PathBuf,
    /// Its caption.
    pub caption: String,
}

/// Lists the captioned pictures of a folder, in the order of the list or the names.
pub fn captioned(folder: &Path) -> Result<Vec<Captioned>> {
    let list = folder.join(LIST);
    let found = match list.exists() {
        true => listed(folder, &list)?,
        false => beside(folder)?,
    };
    match found.is_empty() {
        true => Err(Error::setting(format!(
            "{}: it has no captioned pictures: add a metadata.jsonl with file_name and text, \
             or a .txt beside each picture",
            folder.display()
        ))),
        false => Ok(found),
    }
}

#[derive(Deserialize)]
struct Line {
    file_name: PathBuf,
    text: String,
}

fn listed(folder: &Path, list: &Path) -> Result<Vec<Captioned>> {
    let text = Source::from(list).text()?;
    let lines = text.lines().enumerate();
    let full = lines.filter(|(_, line)| !line.trim().is_empty());
    full.map(|(number, line)| {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Error::config(list, format!("line {}: {error}", number + 1)))?;
        Ok(Captioned {
            file: folder.join(line.file_name),
            caption: line.text,
        })
    })
    .collect()
}

/// The pictures of a folder with a caption beside each.
fn beside(folder: &Path) -> Result<Vec<Captioned>> {
    let mut found = Vec::new();
    for file in pictures(folder)? {
        if let Some(caption) = caption_of(&file)? {
            found.push(Captioned { file, caption });
        }
    }
    Ok(found)
}

/// The pictures of a folder that a training leaves out: those without a caption, unless a
/// list names the pictures.
pub fn uncaptioned(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.join(LIST).exists() {
        return Ok(Vec::new());
    }
    let has_none = |file: &PathBuf| !file.with_extension(CAPTION).exists();
    Ok(pictures(folder)?.into_iter().filter(has_none).collect())
}

/// The captions of a folder that a training leaves out: those without a picture of a kind that
/// is read, unless a list names the pictures.
pub fn unpictured(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.join(LIST).exists() {
        return Ok(Vec::new());
    }
    let pictures = pictures(folder)?.into_iter();
    let captions: HashSet<_> = pictures.map(|file| file.with_extension(CAPTION)).collect();
    let mut files = files(folder, &[CAPTION])?;
    files.retain(|file| !captions.contains(file));
    Ok(files)
}

/// The pictures of which only the first frame is used.
pub fn animated(pictures: &[Captioned]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for Captioned { file, .. } in pictures {
        let bytes = read_file(file).map_err(|error| Error::io(file, error))?;
        if is_animated(&bytes) {
            found.push(file.clone());
        }
    }
    Ok(found)
}

/// The caption beside a picture, if there is one.
fn caption_of(picture: &Path) -> Result<Option<String>> {
    let file = picture.with_extension(CAPTION);
    match Source::from(&file).text() {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(Error::Io { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    files(folder, &ENDINGS)
}

/// The files of a folder with one of these endings, sorted.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let io = |error| Error::io(folder, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        files.push(entry.map_err(io)?.path());
    }
    files.sort_unstable();
    files.retain(|file| {
        let ending = file.extension().unwrap_or_default().to_ascii_lowercase();
        endings.iter().any(|known| ending == *known)
    });
    Ok(files)
}

/// The distributions of the pictures' latents, in main memory.
#[derive(Debug)]
pub struct Dataset {
    captions: Vec<String>,
    posteriors: Posterior,
    device: Device,
}

impl Dataset {
    /// Encodes the pictures, cropped to squares of `side` pixels, into the file `cache`, or
    /// reads them from there. `watch` is called with the number of pictures done; samples
    /// are drawn on the model's device.
    pub fn open(
        pictures: &[Captioned],
        model: &Model,
        side: usize,
        cache: &Path,
        watch: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let origin = origin(pictures, model, side)?;
        let posteriors = if cache.exists() {
            read(cache, &origin)?
        } else {
            let encoded = encode(pictures, &model.vae()?, side, watch)?;
            let notes = HashMap::from([(ORIGIN.to_owned(), origin)]);
            write_tensors(cache, &tensors(&encoded)?, notes, Existing::Keep)?;
            encoded
        };
        Ok(Self {
            captions: pictures.iter().map(|p| p.caption.clone()).collect(),
            posteriors,
            device: model.device().clone(),
        })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.captions.len()
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.captions.is_empty()
    }

    /// The caption of a picture.
    pub fn caption(&self, index: usize) -> &str {
        &self.captions[index]
    }

    /// Samples latents (b, 4, h, w) of pictures from their distributions.
    pub fn sample(&self, indices: &[usize], noise: &mut Noise) -> Result<Tensor> {
        let posteriors = self.posteriors.rows(indices)?;
        let drawn = noise.normal(posteriors.shape(), &Device::Cpu)?;
        Ok(posteriors.sample(&drawn)?.to_device(&self.device)?)
    }
}

fn encode(
    pictures: &[Captioned],
    vae: &Vae,
    side: usize,
    watch: &mut dyn FnMut(usize),
) -> Result<Posterior> {
    let (mut means, mut deviations) = (Vec::new(), Vec::new());
    for (done, picture) in pictures.iter().enumerate() {
        watch(done);
        let read = Picture::read(&picture.file)?;
        let square = fitted(&read, Size::new(side, side), Fit::Crop);
        let [mean, deviation] = vae.encode(&square.to_tensor(vae.device())?)?.parts()?;
        means.push(mean.to_device(&Device::Cpu)?);
        deviations.push(deviation.to_device(&Device::Cpu)?);
    }
    Posterior::of(Tensor::cat(&means, 0)?, Tensor::cat(&deviations, 0)?)
}

fn tensors(posteriors: &Posterior) -> Result<Tensors> {
    let [mean, deviation] = posteriors.parts()?;
    Ok(vec![("mean".into(), mean), ("deviation".into(), deviation)])
}

/// A readable description of a cache's pictures, for comparison. Its hash is over the names
/// and contents of all pictures in order, the side and the autoencoder.
fn origin(pictures: &[Captioned], model: &Model, side: usize) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(model.vae_identity()?.as_bytes());
    add(&side.to_le_bytes());
    for Captioned { file, .. } in pictures {
        add(name_of(file).as_bytes());
        add(&read_file(file).map_err(|error| Error::io(file, error))?);
    }
    let name = |picture: Option<&Captioned>| {
        picture.map_or(String::new(), |picture| name_of(&picture.file))
    };
    let (first, last) = (name(pictures.first()), name(pictures.last()));
    let (count, hash) = (pictures.len(), format!("{:x}", hash.finalize()));
    Ok(format!(
        "{count} pictures from {first} to {last}, {side} pixels wide, and an autoencoder \
         (SHA-256 {})",
        &hash[..32]
    ))
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn read(cache: &Path, origin: &str) -> Result<Posterior> {
    let file = Checkpoint::open(cache)?;
    let notes = safetensors_metadata(&cache.into())?;
    let made_of = notes.get(ORIGIN).map_or("something else", String::as_str);
    if made_of != origin {
        return Err(file.fault(format!(
            "it was made from {made_of}, but the pictures are {origin}: remove it"
        )));
    }
    Posterior::of(
        file.load("mean", &Device::Cpu)?,
        file.load("deviation", &Device::Cpu)?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::ModelChoice, nn::Placement};

    fn model(name: &str) -> Model {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("tests/data").join(name);
        let choice = ModelChoice::named(folder.to_string_lossy());
        Model::open(&choice, Placement::cpu_f32()).unwrap()
    }

    /// Captions are no part of it: they are read anew in each run.
    #[test]
    fn an_origin_is_of_every_picture_in_order_and_of_the_autoencoder() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let file = folder.path().join(name);
            fs::write(&file, content).unwrap();
            let caption = String::new();
            Captioned { file, caption }
        };
        let model = model("sd");
        let list = [
            file("a", "1"),
            file("b", "2"),
            file("c", "3"),
            file("d", "4"),
        ];
        let of = |list: &[Captioned], side| origin(list, &model, side).unwrap();
        let first = of(&list, 64);
        assert_eq!(first, of(&list, 64));
        let [a, b, c, d] = list.clone();
        let swapped = of(&[a.clone(), c.clone(), b.clone(), d.clone()], 64);
        let without = of(&[a, b, d], 64);
        let wide = of(&list, 128);
        let other_model = origin(&list, &self::model("sdxl"), 64).unwrap();
        file("c", "5"); // as many bytes
        let others = [swapped, without, wide, other_model, of(&list, 64)];
        assert!(!others.contains(&first));
    }
}
