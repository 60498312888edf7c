//! PIE-Bench (arXiv 2310.01506): `mapping_file.json`, with the pictures in `annotation_images`
//! beside it.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};

use super::{Area, Sample};
use crate::{
    error::{Error, Result},
    io::Source,
    metrics::Mask,
    picture::Size,
};

/// The list of all edits.
pub const MAPPING: &str = "mapping_file.json";
/// The folder of the pictures.
pub const IMAGES: &str = "annotation_images";
/// The size of all pictures and masks.
pub const SIZE: Size = Size::new(512, 512);

/// The kinds of edits, by `editing_type_id`.
pub const KINDS: [&str; 10] = [
    "0 random",
    "1 change object",
    "2 add object",
    "3 delete object",
    "4 change content",
    "5 change pose",
    "6 change colour",
    "7 change material",
    "8 change background",
    "9 change style",
];

/// An entry of the list; `editing_instruction` is passed over.
#[derive(Deserialize)]
struct Entry {
    image_path: String,
    original_prompt: String,
    editing_prompt: String,
    editing_type_id: TypeId,
    #[serde(default)]
    blended_word: String,
    mask: Vec<i64>,
}

/// A text, or a number as in other programs' lists.
#[derive(Deserialize)]
#[serde(untagged)]
enum TypeId {
    Text(String),
    Number(u64),
}

impl TypeId {
    fn kind(&self) -> Option<&'static str> {
        let index = match self {
            Self::Text(text) => text.trim().parse().ok()?,
            Self::Number(number) => usize::try_from(*number).ok()?,
        };
        KINDS.get(index).copied()
    }
}

/// The entries in their order, none twice.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfEntries)
    }
}

struct OfEntries;

impl<'de> Visitor<'de> for OfEntries {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of edits")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), std::collections::HashSet::new());
        while let Some((key, entry)) = map.next_entry::<String, Entry>()? {
            if !seen.insert(key.clone()) {
                let reason = format!("the key {key:?} is given twice");
                return Err(serde::de::Error::custom(reason));
            }
            entries.push((key, entry));
        }
        Ok(Entries(entries))
    }
}

/// Reads the edits of a folder with `mapping_file.json`, or of such a file. `images` is the
/// folder of the pictures, if it is not the one beside the list.
pub fn read(data: &Path, images: Option<&Path>) -> Result<Vec<Sample>> {
    let file = match data.is_dir() {
        true => data.join(MAPPING),
        false => data.to_owned(),
    };
    let beside = || file.with_file_name(IMAGES);
    let images = images.map_or_else(beside, Path::to_owned);
    let text = Source::from(&file).text()?;
    let Entries(entries) =
        serde_json::from_str(&text).map_err(|error| Error::config(&file, error))?;
    let sample = |(key, entry): (String, Entry)| {
        let fault = |reason: String| Error::config(&file, format!("{key:?}: {reason}"));
        entry.sample(&key, &images).map_err(fault)
    };
    entries.into_iter().map(sample).collect()
}

impl Entry {
    fn sample(self, key: &str, images: &Path) -> Result<Sample, String> {
        let path = inside(&self.image_path)?;
        let kind = self.editing_type_id.kind();
        Ok(Sample {
            key: key.to_owned(),
            kind: kind
                .ok_or("editing_type_id is not one of 0 to 9")?
                .to_owned(),
            image: images.join(&path),
            result: path,
            source_prompt: without_brackets(&self.original_prompt),
            target_prompt: without_brackets(&self.editing_prompt),
            words: words(&self.blended_word),
            area: Area::Mask(mask(&self.mask)?),
            seed: None,
            truth: None,
        })
    }
}

/// A path that stays in its folder.
pub(super) fn inside(path: &str) -> Result<PathBuf, String> {
    let is_inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    let path_of = Path::new(path);
    match !path.is_empty() && path_of.components().all(is_inside) {
        true => Ok(path_of.to_owned()),
        false => Err(format!("{path:?} is no path inside the folder of pictures")),
    }
}

/// A prompt without the brackets around what differs; spaces stay.
fn without_brackets(prompt: &str) -> String {
    prompt.replace(['[', ']'], "")
}

/// The two words of `source target`, if there are two.
pub(super) fn words(text: &str) -> Option<[String; 2]> {
    let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    words.try_into().ok()
}

/// The mask of pairs of a start and a length, over the rows of [`SIZE`]; the pixels of the border
/// may always change. What would pass the end is cut.
fn mask(runs: &[i64]) -> Result<Mask, String> {
    let (pairs, rest) = runs.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(format!(
            "mask: {} numbers are not pairs of start and length",
            runs.len()
        ));
    }
    let mut edited = vec![false; SIZE.pixels()];
    for [start, length] in pairs {
        let unsigned = usize::try_from(*start)
            .ok()
            .zip(usize::try_from(*length).ok());
        let (start, length) =
            unsigned.ok_or_else(|| format!("mask: {start}, {length} is no start and length"))?;
        let start = start.min(edited.len());
        let end = start.saturating_add(length).min(edited.len());
        edited[start..end].fill(true);
    }
    let (width, height) = (SIZE.width, SIZE.height);
    for (i, edited) in edited.iter_mut().enumerate() {
        let (x, y) = (i % width, i / width);
        *edited |= x == 0 || y == 0 || x == width - 1 || y == height - 1;
    }
    Mask::new(SIZE, edited).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Region;

    const BORDER: usize = 4 * 511;

    fn count(runs: &[i64]) -> usize {
        let mask = mask(runs).unwrap();
        mask.edited().iter().filter(|edited| **edited).count()
    }

    #[test]
    fn runs_are_cut_at_the_end_and_the_border_may_always_change() {
        assert_eq!(count(&[]), BORDER);
        assert_eq!(count(&[513, 3, 600, 0]), BORDER + 3);
        assert_eq!(
            count(&[512 * 512 - 2, 99, 512 * 512, 5, i64::MAX, i64::MAX]),
            BORDER
        );
        assert_eq!(count(&[0, i64::MAX]), 512 * 512);
        assert!(mask(&[0, 512 * 512]).unwrap().is_empty(Region::Preserved));
        assert!(mask(&[513]).unwrap_err().contains("1 numbers"));
        assert!(mask(&[-1, 5]).is_err() && mask(&[5, -1]).is_err());
    }

    #[test]
    fn brackets_alone_are_deleted_and_paths_stay_inside() {
        assert_eq!(without_brackets("a [red] cat []"), "a red cat ");
        assert_eq!(words("cat dog"), Some(["cat".into(), "dog".into()]));
        assert_eq!((words(""), words("a b c")), (None, None));
        assert!(inside("0_random_140/1.jpg").is_ok());
        assert!(inside("../1.jpg").is_err() && inside("/1.jpg").is_err() && inside("").is_err());
    }
}
