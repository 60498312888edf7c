//! The check of a job against its model and its files, before any network is loaded.

use anyhow::{Context, Result};
use icd::{
    picture::Size,
    pipeline::{Pipeline, Workload},
};

use super::{
    fingerprint::Fingerprint,
    reader::Reader,
    results::{Found, Results},
    task::{Task, Work},
};
use crate::cli::{
    Console,
    canvas::Input,
    commands::{
        edit::{self, EditArgs, Given},
        invert::InvertArgs,
    },
    settings::{InputHash, Settings},
};

/// A job that can be run.
pub(crate) struct Checked {
    /// What each result will state of itself.
    pub(crate) fingerprints: Vec<Fingerprint>,
    /// The results that are not finished.
    pub(crate) todo: Vec<usize>,
    /// What the networks have to do for all results.
    pub(crate) load: Workload,
    /// The size of the results; none of latents.
    pub(crate) size: Option<Size>,
}

/// Checks a job, and which of its results are finished.
pub(super) fn checked(
    task: &Task,
    pipeline: &Pipeline,
    (reader, results): (&mut Reader, &Results),
    console: &Console,
) -> Result<Checked> {
    let (settings, load, size) = match &task.work {
        Work::Edit(args) => of_edit(args, task, pipeline, (reader, console))?,
        Work::Generate(args) => {
            let settings = task.settings.clone();
            let prepared = args.prepared(pipeline, settings, console)?;
            let of = |index| prepared.settings(index);
            let settings: Vec<_> = (0..prepared.count).map(of).collect();
            let load = prepared.workload(pipeline.model())?;
            (settings, load, Some(prepared.size))
        }
        Work::Invert(args) => of_inversion(args, task, pipeline, (reader, console))?,
    };
    for (file, own) in task.files.iter().zip(&settings) {
        task.check_settings(file, own)?;
    }
    let one = |settings: &Settings| settings.fingerprint(task.is_random);
    let fingerprints: Vec<_> = settings.iter().map(one).collect();
    let mut todo = Vec::new();
    for (index, wanted) in fingerprints.iter().enumerate() {
        if results.found(task, index, wanted)? != Found::Finished {
            todo.push(index);
        }
    }
    Ok(Checked {
        fingerprints,
        todo,
        load,
        size,
    })
}

/// The settings of each result, the work, and the size of the results.
type Planned = (Vec<Settings>, Workload, Option<Size>);

fn of_edit(
    args: &EditArgs,
    task: &Task,
    pipeline: &Pipeline,
    (reader, console): (&mut Reader, &Console),
) -> Result<Planned> {
    let (read, mask) = (reader.edited(args, console)?, reader.mask(args, console)?);
    let given = Given {
        input: &read.0,
        mask: mask.as_deref(),
        settings: of_input(task, &read.1)?,
    };
    let prepared: edit::Prepared = args.prepared(given, pipeline, console)?;
    prepared.finish(console);
    let model = pipeline.model();
    Ok((
        prepared.settings(model)?,
        prepared.workload(model)?,
        Some(prepared.result_size(model)?),
    ))
}

fn of_inversion(
    args: &InvertArgs,
    task: &Task,
    pipeline: &Pipeline,
    (reader, console): (&mut Reader, &Console),
) -> Result<Planned> {
    let read = reader.inverted(args, console)?;
    let model = pipeline.model();
    let Input::Photo(photo) = &read.0 else {
        anyhow::bail!("latents are inverted already");
    };
    let placed = args.placed(photo, model, console)?;
    let load = args.workload(model, placed.picture.size())?;
    let settings = of_inverted(args, task, &read.1, pipeline)?;
    Ok((vec![settings], load, None))
}

/// What the ledger knows of inverted latents.
pub(super) fn of_inverted(
    args: &InvertArgs,
    task: &Task,
    hash: &InputHash,
    pipeline: &Pipeline,
) -> Result<Settings> {
    let settings = of_input(task, hash)?.made_with(pipeline.model())?;
    Ok(settings.with("seed", args.seed.drawn()))
}

/// The settings of a job with the hash of its input, which must be the one that they state.
pub(super) fn of_input(task: &Task, hash: &InputHash) -> Result<Settings> {
    let settings = task.settings.clone().of_input(hash.clone(), None);
    let name = task.work.input().unwrap_or(std::path::Path::new(""));
    settings.ok().with_context(|| {
        format!(
            "{}: its content is not that of input_sha256: remove this key to take it as it is",
            name.display()
        )
    })
}
