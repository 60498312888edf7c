//! The files of an edit that was made.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    io::write_tensors,
    picture::Picture,
    pipeline::{Edited, Pipeline},
};

use super::Prepared;
use crate::cli::{
    Console, args::result::ResultArgs, canvas::ResultSize, picture, settings::Settings,
    ui::sheets::Shown,
};

/// Where the results of an edit go, with their settings.
pub(super) struct Files<'a> {
    pub(super) result: &'a ResultArgs,
    pub(super) outputs: &'a [PathBuf],
    pub(super) settings: &'a [Settings],
}

impl Files<'_> {
    /// Decodes and writes the results, and what was asked for beside them.
    pub(super) fn write(
        &self,
        pipeline: &Pipeline,
        (edit, edited): (&Prepared, &Edited),
        console: &mut Console,
    ) -> Result<()> {
        let (result, existing) = (self.result, self.result.save.write.existing());
        let finish = edit.finish(console);
        if let Some(file) = &result.save_latents {
            let latents = vec![("latent".into(), edited.targets.clone())];
            write_tensors(file, &latents, HashMap::new(), existing)?;
        }
        let with_sheets = result.comparison.is_some() || result.attention_maps.is_some();
        let source = edited.source.as_ref().filter(|_| with_sheets);
        let latents: Vec<_> = source.into_iter().chain([&edited.targets]).collect();
        let mut decoded = pipeline.decode(&Tensor::cat(&latents, 0)?, console)?;
        let source = source.map(|_| decoded.remove(0));
        if let Some(size) = finish.frame.worked_at() {
            console.note(&size);
        }
        let finished = |size| finish.pictures(&decoded, edited, size);
        self.write_results(finished(finish.size))?;
        if !with_sheets {
            return Ok(());
        }
        let shown = Shown {
            edited,
            photo: finish.frame.placed().map(|placed| placed.picture.clone()),
            source: source.map(|source| finish.frame.finished(&source, ResultSize::Work)),
            targets: finished(ResultSize::Work).collect::<Result<_>>()?,
        };
        if let Some(file) = &result.comparison {
            picture::write(&shown.comparison()?, file, None, existing)?;
        }
        match &result.attention_maps {
            Some(folder) => shown.write_attention(folder, existing),
            None => Ok(()),
        }
    }

    fn write_results(&self, results: impl Iterator<Item = Result<Picture>>) -> Result<()> {
        let save = &self.result.save;
        let mut results = results.zip(self.outputs).zip(self.settings);
        results.try_for_each(|((result, file), own)| {
            let own = (!save.no_metadata).then_some(own);
            picture::write(&result?, file, own, save.write.existing())
        })
    }
}
