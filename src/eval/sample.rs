//! One edit of a data set, and the choice of the data set.

use std::path::{Path, PathBuf};

use super::{bundled, folder, list, pie_bench, world::Pair};
use crate::{
    batch::Replacement,
    error::{Error, Result},
    metrics::Mask,
    model::bundled::{NAME, is_bundled},
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
    pub truth: Option<Box<Pair>>,
}

impl Sample {
    /// What may change as a mask, if it is told.
    pub fn mask(&self) -> Result<Option<Mask>> {
        match &self.area {
            Area::Untold => Ok(None),
            Area::Mask(mask) => Ok(Some(mask.clone())),
            Area::File(file) => {
                let bytes = std::fs::read(file).map_err(|error| Error::io(file, error))?;
                Ok(Some(Mask::of_picture(&Picture::decode_mask(&bytes, file)?)))
            }
            Area::Truth => self.truth.as_deref().map(changed).transpose(),
        }
    }

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
    /// What the true edit changes.
    Truth,
}

/// The pixels that an edit of a scene changes.
fn changed(pair: &Pair) -> Result<Mask> {
    let (before, after) = (pair.source.render(), pair.target.render());
    Mask::new(before.size(), Pair::mask(&before, &after))
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
    Bundled,
}

impl Data {
    /// What `data` names: `tabletop` (a folder of that name is `./tabletop`), a folder with a
    /// `mapping_file.json` or such a file, a `.csv`, or another folder.
    pub fn of(data: &Path) -> Result<Self> {
        if data.as_os_str() == NAME {
            return Ok(Self::Bundled);
        }
        let ending = data.extension().unwrap_or_default().to_ascii_lowercase();
        if data.join(pie_bench::MAPPING).is_file() || data.is_file() && ending == "json" {
            return Ok(Self::PieBench);
        }
        match (data.is_dir(), data.is_file()) {
            (true, _) => Ok(Self::Folder),
            (_, true) if ending == "csv" => Ok(Self::List),
            // Its former name.
            (false, false) if data.to_str().is_some_and(is_bundled) => Ok(Self::Bundled),
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
            Self::Bundled => NAME,
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
            Self::Bundled => Ok(bundled::samples(bundled::COUNT, written)),
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
            Self::Bundled => bundled::scenes(bundled::SCENES, written),
            Self::PieBench | Self::List => self.samples(data, images, &[], written)?,
        };
        Ok(samples.into_iter().map(Sample::reconstruction).collect())
    }
}

const KINDS: &str = "this is no data: name a folder with mapping_file.json, such a file, a .csv \
                     with file_name, old_caption and edited_caption, a folder of pictures with \
                     captions, or tabletop";
