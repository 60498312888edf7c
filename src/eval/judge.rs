//! What is measured of one edit.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{
    Column, Data, Sample, Score, pie_bench,
    world::{SIDE, Verdict},
};
use crate::{
    error::{Error, Result},
    metrics::{Mask, Pair, Protocol, Suite},
    picture::{Picture, Size},
};

/// Measures the results of edits.
pub struct Judge {
    suite: Suite,
    protocol: Protocol,
    data: Data,
    /// What tells the weights of its networks apart.
    weights: String,
}

/// The pictures of a sample as files.
pub struct Judged<'a> {
    /// The sample.
    pub sample: &'a Sample,
    /// The bytes of the picture before.
    pub source: &'a [u8],
    /// The bytes of the picture after, and its file.
    pub result: (&'a [u8], &'a Path),
}

impl Judge {
    /// Of edits of some data; `weights` tells the weights of the suite's networks apart.
    pub fn new(suite: Suite, protocol: Protocol, data: Data, weights: String) -> Self {
        Self {
            suite,
            protocol,
            data,
            weights,
        }
    }

    /// All that is measured of these samples, in the order of tables.
    pub fn columns(&self, samples: &[Sample]) -> Vec<Column> {
        let measures = self.suite.measures().into_iter().map(Column::Measure);
        let exact: &[Column] = match samples.iter().any(|sample| sample.truth.is_some()) {
            true => &Column::EXACT,
            false => &[],
        };
        measures.chain(exact.iter().copied()).collect()
    }

    /// A hash of all that the scores of a sample follow from.
    pub fn digest(&self, judged: &Judged, mask: Option<&Mask>) -> String {
        let sample = judged.sample;
        let mut hash = Sha256::new();
        let words = [
            &self.protocol.to_string(),
            self.data.name(),
            &self.weights,
            &sample.source_prompt,
            &sample.target_prompt,
        ];
        for word in words {
            hash.update(format!("{} {word}\n", word.len()));
        }
        for measure in self.suite.measures() {
            hash.update(format!("{}\n", measure.name()));
        }
        for bytes in [judged.source, judged.result.0] {
            hash.update(Sha256::digest(bytes));
        }
        for edited in mask.into_iter().flat_map(Mask::edited) {
            hash.update([u8::from(*edited)]);
        }
        format!("{:x}", hash.finalize())
    }

    /// Measures the result of a sample.
    pub fn score(&self, judged: &Judged, mask: Option<&Mask>) -> Result<Score> {
        let sample = judged.sample;
        let source = Picture::decode(judged.source, &sample.image)?;
        let (bytes, file) = judged.result;
        let result = self.framed(Picture::decode(bytes, file)?);
        let measured = self.protocol.as_saved(result.clone(), bytes);
        let pair = Pair {
            source: &source,
            result: &measured,
            mask,
            source_prompt: told(&sample.source_prompt),
            target_prompt: told(&sample.target_prompt),
        };
        let values = self.suite.measured(&pair)?.into_iter();
        let mut values: Vec<_> = values
            .map(|(measure, value)| (Column::Measure(measure), value))
            .collect();
        values.extend(exact(sample, &result)?);
        Ok(Score {
            key: sample.key.clone(),
            digest: self.digest(judged, mask),
            values: values.into_iter().collect(),
        })
    }

    /// What counts of a result: methods of PIE-Bench save strips of four pictures.
    fn framed(&self, result: Picture) -> Picture {
        let Size { width, height } = result.size();
        match self.data == Data::PieBench && width != height {
            true => lower_right(&result, pie_bench::SIZE),
            false => result,
        }
    }
}

/// A prompt, unless it is empty: then nothing is told.
fn told(prompt: &str) -> Option<&str> {
    (!prompt.is_empty()).then_some(prompt)
}

/// The lower right of a picture; what it lacks is black, as of Pillow's `crop`.
pub fn lower_right(picture: &Picture, size: Size) -> Picture {
    let from = picture.size();
    let place = |i: usize| {
        let x = (i % size.width + from.width).checked_sub(size.width)?;
        let y = (i / size.width + from.height).checked_sub(size.height)?;
        Some(3 * (y * from.width + x))
    };
    let pixel = |i: usize| match place(i) {
        Some(at) => [0, 1, 2].map(|channel| picture.pixels()[at + channel]),
        None => [0; 3],
    };
    let pixels = (0..size.pixels()).flat_map(pixel).collect();
    Picture::new(size, pixels).expect("three bytes for each pixel")
}

/// What is known exactly of the edit of a scene.
fn exact(sample: &Sample, result: &Picture) -> Result<Vec<(Column, f64)>> {
    let Some(pair) = &sample.truth else {
        return Ok(Vec::new());
    };
    if result.size() != Size::new(SIDE, SIDE) {
        return Err(Error::setting(format!(
            "the result has {} pixels, the scene {SIDE}x{SIDE}",
            result.size()
        )));
    }
    let verdict = Verdict::of(pair, result);
    let share = |is: bool| f64::from(u8::from(is));
    let place = verdict
        .place_kept
        .map(|kept| (Column::PlaceKept, share(kept)));
    let unchanged = verdict.unchanged.map(|psnr| (Column::Unchanged, psnr));
    let right = (Column::Right, share(verdict.is_right));
    let whole = (Column::True, verdict.whole);
    Ok([Some(right), place, Some(whole), unchanged]
        .into_iter()
        .flatten()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_right_is_black_where_there_is_no_picture() {
        let pixels = (0..18).collect();
        let picture = Picture::new(Size::new(3, 2), pixels).unwrap();
        let crop = lower_right(&picture, Size::new(2, 3));
        let reds: Vec<_> = crop.pixels().iter().step_by(3).copied().collect();
        assert_eq!(reds, [0, 0, 3, 6, 12, 15]);
    }
}
