//! The measures of results, each taken once and kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use icd::{
    batch::Shard,
    eval::{Judge, Judged, Sample, Score, Scores},
};

use super::made::part;
use crate::cli::{
    Console,
    batch::parser::reason,
    exit::{Exit, is_of_machine},
};

/// Where results are.
pub(super) struct Measuring<'a> {
    pub(super) samples: &'a [Sample],
    /// The file of each result.
    pub(super) results: &'a [PathBuf],
    pub(super) judge: &'a Judge,
    /// The folder of the scores.
    pub(super) folder: &'a Path,
}

/// What was measured of all parts.
pub(super) struct Measured {
    /// A score of each sample, as far as it has one.
    pub(super) scores: Vec<Option<Score>>,
    /// How many of this part could not be measured.
    pub(super) failed: usize,
}

impl Measuring<'_> {
    /// Measures the results of a part that are not measured, and collects those of all parts.
    pub(super) fn run(
        &self,
        own: &[usize],
        shard: Option<Shard>,
        console: &mut Console,
    ) -> Result<Measured> {
        let scores = Scores::read(self.folder)?;
        let mut scores = scores
            .writing(self.folder, part(shard))
            .context(Exit::Machine)?;
        let mut failed = 0;
        console.begin_jobs("measured", own.len());
        for &index in own.iter().filter(|index| self.results[**index].is_file()) {
            match self.score(index, &scores) {
                Ok(Some(score)) => scores.add(score).context(Exit::Machine)?,
                Ok(None) => {}
                Err(error) if is_of_machine(&error, self.folder) => {
                    return Err(error.context(Exit::Machine));
                }
                Err(error) => {
                    failed += 1;
                    let key = &self.samples[index].key;
                    console.job_failed(&format!("{key}: {}", reason(&error)));
                }
            }
            console.end_jobs(1);
        }
        console.clear();
        let known = (0..self.samples.len()).map(|index| self.known(index, &scores));
        Ok(Measured {
            scores: known.collect::<Result<_>>()?,
            failed,
        })
    }

    /// The score of a sample that has none yet.
    fn score(&self, index: usize, scores: &Scores) -> Result<Option<Score>> {
        self.on(index, |judged, mask| {
            let digest = self.judge.digest(judged, mask);
            match scores.of(&judged.sample.key, &digest) {
                Some(_) => Ok(None),
                None => Ok(Some(self.judge.score(judged, mask)?)),
            }
        })
    }

    /// The score of a sample that has one.
    fn known(&self, index: usize, scores: &Scores) -> Result<Option<Score>> {
        if !self.results[index].is_file() || !self.samples[index].image.is_file() {
            return Ok(None);
        }
        self.on(index, |judged, mask| {
            let digest = self.judge.digest(judged, mask);
            Ok(scores.of(&judged.sample.key, &digest).cloned())
        })
    }

    /// Reads the files of a sample.
    fn on<T>(
        &self,
        index: usize,
        f: impl FnOnce(&Judged, Option<&icd::metrics::Mask>) -> Result<T>,
    ) -> Result<T> {
        let (sample, file) = (&self.samples[index], &self.results[index]);
        let (source, result) = (read(&sample.image)?, read(file)?);
        let mask = sample.mask()?;
        let judged = Judged {
            sample,
            source: &source,
            result: (&result, file),
        };
        f(&judged, mask.as_ref())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    Ok(fs::read(file).map_err(|error| icd::Error::io(file, error))?)
}
