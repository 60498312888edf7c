//! What was measured, kept in a file for each part of the work, so that it is measured once.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    batch::{Disk, Part, append, end_line, files},
    error::{Error, Result},
    metrics::Measure,
};

/// The stem of the files.
const SCORES: &str = "scores";

/// A column of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// A measure.
    Measure(Measure),
    /// Whether the edit of a scene is right: 1 or 0.
    Right,
    /// Whether the thing that was changed kept its place: 1 or 0.
    PlaceKept,
    /// PSNR of the whole picture against the true edited scene.
    True,
    /// PSNR of what should not change of a scene, other pixels not counted.
    Unchanged,
}

impl Column {
    /// What is known exactly of scenes.
    pub const EXACT: [Self; 4] = [Self::Right, Self::PlaceKept, Self::True, Self::Unchanged];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measure(measure) => measure.name(),
            Self::Right => "edit_right",
            Self::PlaceKept => "place_kept",
            Self::True => "psnr_true_edit",
            Self::Unchanged => "psnr_unchanged_pixels",
        }
    }

    /// The column of this name.
    pub fn named(name: &str) -> Option<Self> {
        let measures = Measure::ALL.into_iter().map(Self::Measure);
        measures
            .chain(Self::EXACT)
            .find(|column| column.name() == name)
    }
}

/// The scores of one edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The key of the sample.
    pub key: String,
    /// A hash of all that they follow from.
    pub digest: String,
    /// The values: not a number where a region is empty, infinite where pictures are equal.
    pub values: BTreeMap<Column, f64>,
}

/// A value as PnPInversion's evaluation writes it: `nan`, `inf` or a number.
pub fn text_of(value: f64) -> String {
    match value {
        value if value.is_nan() => "nan".into(),
        value => value.to_string(), // "inf" if infinite
    }
}

/// A line of a file. Values are texts, which are read to the last bit.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    digest: String,
    values: BTreeMap<String, String>,
}

impl From<&Score> for Line {
    fn from(score: &Score) -> Self {
        let values = score.values.iter();
        Self {
            key: score.key.clone(),
            digest: score.digest.clone(),
            values: values
                .map(|(column, value)| (column.name().to_owned(), text_of(*value)))
                .collect(),
        }
    }
}

impl Line {
    fn score(self) -> Option<Score> {
        let values = self.values.into_iter();
        let values = values.map(|(name, text)| Some((Column::named(&name)?, text.parse().ok()?)));
        Some(Score {
            key: self.key,
            digest: self.digest,
            values: values.collect::<Option<_>>()?,
        })
    }
}

/// The scores of a folder, by the keys of samples.
#[derive(Debug, Default)]
pub struct Scores {
    known: HashMap<String, Vec<Score>>,
    /// Where new ones are kept.
    file: Option<(File, std::path::PathBuf)>,
}

impl Scores {
    /// The scores that all parts have kept in a folder. Lines that are none, as the last one of
    /// a process that was killed, are passed over.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut scores = Self::default();
        for file in files(&Disk, folder, SCORES)? {
            let bytes = fs::read(&file).map_err(|error| Error::io(&file, error))?;
            for line in bytes.split(|byte| *byte == b'\n') {
                let line = serde_json::from_slice(line).ok();
                if let Some(score) = line.and_then(Line::score) {
                    scores.keep(score);
                }
            }
        }
        Ok(scores)
    }

    /// These, and a file of a part for new ones.
    pub fn writing(self, folder: &Path, part: Part) -> Result<Self> {
        let path = part.file(folder, SCORES);
        let fault = |error| Error::io(&path, error);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path);
        let file = file.map_err(fault)?;
        end_line(&file).map_err(fault)?;
        Ok(Self {
            file: Some((file, path)),
            ..self
        })
    }

    /// The score of a sample with this digest that has all these columns, as far as its sample
    /// allows.
    pub fn of(&self, key: &str, digest: &str) -> Option<&Score> {
        let known = self.known.get(key)?;
        known.iter().find(|score| score.digest == digest)
    }

    /// Adds a score, and keeps it in the file.
    pub fn add(&mut self, score: Score) -> Result<()> {
        if let Some((file, path)) = &mut self.file {
            let fault = |error| Error::io(&*path, error);
            let line = serde_json::to_string(&Line::from(&score));
            let line = line.map_err(|error| fault(error.into()))?;
            append(file, &line).map_err(fault)?;
        }
        self.keep(score);
        Ok(())
    }

    fn keep(&mut self, score: Score) {
        let known = self.known.entry(score.key.clone()).or_default();
        known.retain(|one| one.digest != score.digest);
        known.push(score);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_to_the_last_bit_and_torn_lines_are_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let score = |digest: &str, value: f64| Score {
            key: "000000000001".into(),
            digest: digest.into(),
            values: [
                (Column::Measure(Measure::Psnr), value),
                (Column::Measure(Measure::Lpips), f64::INFINITY),
                (Column::Right, f64::NAN),
            ]
            .into(),
        };
        let values = [0.1 + 0.2, 1.0 / 3.0, 5e-324, 123_456.789_012_345_67];
        let open = || {
            Scores::read(home.path())
                .unwrap()
                .writing(home.path(), Part::Whole)
        };
        let mut scores = open().unwrap();
        for (i, value) in values.into_iter().enumerate() {
            scores.add(score(&i.to_string(), value)).unwrap();
        }
        drop(scores);
        let file = home.path().join("scores.jsonl");
        let mut text = fs::read_to_string(&file).unwrap();
        text.push_str("{\"key\": \"x");
        fs::write(&file, text).unwrap();
        open().unwrap().add(score("last", 2.0)).unwrap();
        let scores = Scores::read(home.path()).unwrap();
        for (i, value) in values.into_iter().enumerate() {
            let found = scores.of("000000000001", &i.to_string()).unwrap();
            assert_eq!(
                found.values[&Column::Measure(Measure::Psnr)].to_bits(),
                value.to_bits()
            );
            assert!(found.values[&Column::Right].is_nan());
            assert!(found.values[&Column::Measure(Measure::Lpips)].is_infinite());
        }
        assert!(scores.of("000000000001", "last").is_some());
        assert!(scores.of("000000000001", "other").is_none());
    }
}
