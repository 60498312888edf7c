//! One edit of a data set, and the choice of the data set.

use std::path::{Path, PathBuf};

use super::{folder, list, pie_bench, toy};
use crate::{
    batch::Replacement,
    error::{Error, Result},
    metrics::Mask,
    picture::Picture,
};

/// An edit to be made and measured.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name in tables, different for each.
    pub key: String,
    /// The kind of edit, by which tables are divided.
    pub kind: String,
    /// The picture before.
    pub image: PathBuf,
    /// The path of the picture after in the folder of a method's results.
    pub result: PathBuf,
    /// What the picture shows.
    pub source_prompt: String,
    /// What the result should show.
    pub target_prompt: String,
    /// A word of each prompt that local blend may restrict the edit to.
    pub words: Option<[String; 2]>,
    /// What may change.
    pub area: Area,
    /// The seed of the noise, where the data has one.
    pub seed: Option<u64>,
    /// The true edit, of a scene of the bundled world.
    pub truth: Option<Box<super::world::Pair>>,
}

impl Sample {
    /// The same picture under its own prompt.
    fn reconstruction(self) -> Self {
        Self {
            target_prompt: self.source_prompt.clone(),
            area: Area::Untold,
            words: None,
            truth: None,
            ..self
        }
    }
}

/// What an edit may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Area {
    /// Nothing is told: whole pictures are compared.
    Untold,
    /// A mask.
    Mask(Mask),
    /// A picture of a mask, white where the edit may change something.
    File(PathBuf),
}

impl Area {
    /// The mask, if there is one.
    pub fn mask(&self) -> Result<Option<Mask>> {
        match self {
            Self::Untold => Ok(None),
            Self::Mask(mask) => Ok(Some(mask.clone())),
            Self::File(file) => {
                let bytes = std::fs::read(file).map_err(|error| Error::io(file, error))?;
                Ok(Some(Mask::of_picture(&Picture::decode_mask(&bytes, file)?)))
            }
        }
    }
}

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// PIE-Bench, or data in its form.
    PieBench,
    /// A list as that of the reference of iCD.
    List,
    /// A folder with captions.
    Folder,
    /// The bundled world.
    Toy,
}

impl Data {
    /// What `data` names: a folder with a `mapping_file.json` or such a file, a `.csv`, another
    /// folder, or `shapes`.
    pub fn of(data: &Path) -> Result<Self> {
        let ending = data.extension().unwrap_or_default().to_ascii_lowercase();
        if data.join(pie_bench::MAPPING).is_file() || data.is_file() && ending == "json" {
            return Ok(Self::PieBench);
        }
        match (data.is_dir(), data.is_file()) {
            (true, _) => Ok(Self::Folder),
            (_, true) if ending == "csv" => Ok(Self::List),
            (false, false) if data == Path::new(toy::NAME) => Ok(Self::Toy),
            (_, true) => Err(Error::config(data, KINDS)),
            _ => Err(Error::config(data, "there is no such file or folder")),
        }
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::PieBench => "pie-bench",
            Self::List => "list",
            Self::Folder => "folder",
            Self::Toy => toy::NAME,
        }
    }

    /// The samples of this data. `images` is the folder of the pictures, if it is not the usual
    /// one; `replacements` make the targets of captions without one. The pictures of the bundled
    /// world are written into `written`.
    pub fn samples(
        self,
        data: &Path,
        images: Option<&Path>,
        replacements: &[Replacement],
        written: &Path,
    ) -> Result<Vec<Sample>> {
        match self {
            Self::PieBench => pie_bench::read(data, images),
            Self::List => list::read(data, images),
            Self::Folder => folder::read(data, replacements),
            Self::Toy => Ok(toy::samples(toy::COUNT, written)),
        }
    }

    /// The pictures of this data with their captions, to be reconstructed. The arguments are
    /// those of [`samples`](Self::samples).
    pub fn reconstructions(
        self,
        data: &Path,
        images: Option<&Path>,
        written: &Path,
    ) -> Result<Vec<Sample>> {
        let samples = match self {
            Self::Folder => folder::captions(data)?,
            Self::Toy => toy::scenes(toy::SCENES, written),
            Self::PieBench | Self::List => self.samples(data, images, &[], written)?,
        };
        Ok(samples.into_iter().map(Sample::reconstruction).collect())
    }
}

const KINDS: &str = "this is no data: name a folder with mapping_file.json, such a file, a .csv \
                     with file_name, old_caption and edited_caption, a folder of pictures with \
                     captions, or shapes";
