//! The lists of the reference of iCD: CSV with `file_name`, `old_caption`, `edited_caption`
//! and `blended_words`.

use std::path::Path;

use super::{Area, Sample, pie_bench};
use crate::{
    error::{Error, Result},
    io::Source,
};

/// The kind of all edits: the lists tell none.
const KIND: &str = "edit";

/// The places of the columns.
struct Columns {
    file: usize,
    old: usize,
    edited: usize,
    words: Option<usize>,
}

/// Reads a list. `images` is the folder of the pictures, if they are not beside the list.
pub fn read(file: &Path, images: Option<&Path>) -> Result<Vec<Sample>> {
    let fault = |reason: String| Error::config(file, reason);
    let beside = file.parent().unwrap_or(Path::new(""));
    let images = images.unwrap_or(beside);
    let text = Source::from(file).text()?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().map_err(|error| fault(error.to_string()))?;
    let columns = Columns::of(head).map_err(fault)?;
    let mut samples = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let sample = record
            .map_err(|error| error.to_string())
            .and_then(|record| columns.sample(index, &record, images));
        samples.push(sample.map_err(|reason| fault(format!("record {}: {reason}", index + 1)))?);
    }
    Ok(samples)
}

impl Columns {
    fn of(head: &csv::StringRecord) -> Result<Self, String> {
        let find = |name: &str| head.iter().position(|column| column == name);
        let needed = |name: &str| find(name).ok_or_else(|| format!("it has no column {name}"));
        Ok(Self {
            file: needed("file_name")?,
            old: needed("old_caption")?,
            edited: needed("edited_caption")?,
            words: find("blended_words"),
        })
    }

    fn sample(
        &self,
        index: usize,
        record: &csv::StringRecord,
        images: &Path,
    ) -> Result<Sample, String> {
        let of = |column: usize| record.get(column).unwrap_or_default();
        let path = pie_bench::inside(of(self.file))?;
        let words = self.words.map(of).unwrap_or_default();
        // Some lists have pairs as Python writes them: ('cat', 'dog').
        let words = words.replace(['(', ')', '\'', '"', ','], " ");
        Ok(Sample {
            key: format!("{index:012}"),
            kind: KIND.into(),
            image: images.join(&path),
            result: numbered(&path, index),
            source_prompt: of(self.old).to_owned(),
            target_prompt: of(self.edited).to_owned(),
            words: pie_bench::words(&words),
            area: Area::Untold,
            seed: None,
            truth: None,
        })
    }
}

/// The path of a result: a picture may be edited in several ways.
fn numbered(path: &Path, index: usize) -> std::path::PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{index}.png"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_blended_words_are_read() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("edits.csv");
        let text = ",file_name,old_caption,edited_caption,blended_words\n\
                    0,a.jpg,\"a cat, sitting\",\"a dog, sitting\",cat dog\n\
                    1,a.jpg,a house,an oil painting of a house, \n\
                    2,b.jpg,two ducks,two zebras,\"('ducks', 'zebras')\"\n";
        std::fs::write(&file, text).unwrap();
        let samples = read(&file, Some(Path::new("images"))).unwrap();
        let words = samples.iter().map(|sample| sample.words.clone());
        let pair = |a: &str, b: &str| Some([a.to_owned(), b.to_owned()]);
        assert_eq!(
            words.collect::<Vec<_>>(),
            [pair("cat", "dog"), None, pair("ducks", "zebras")]
        );
        assert_eq!(samples[0].source_prompt, "a cat, sitting");
        assert_eq!(samples[2].image, Path::new("images/b.jpg"));
        assert_ne!(samples[0].result, samples[1].result);
        std::fs::write(&file, "file_name,old_caption\n").unwrap();
        let error = read(&file, None).unwrap_err().to_string();
        assert!(error.contains("edited_caption"), "{error}");
    }
}
