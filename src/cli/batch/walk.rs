//! The run of a job on loaded networks, or of several edits that share all but their targets.

use std::{
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use icd::{
    diffusion::Inverted,
    pipeline::{Edit, Edited, Method, Pipeline},
};

use super::{
    check::{of_input, of_inverted},
    fingerprint::Fingerprint,
    reader::Reader,
    results::{Made, Results},
    runner::Ready,
    task::Task,
};
use crate::cli::{
    Console,
    canvas::Input,
    commands::{
        edit::{EditArgs, Given, Prepared},
        generate::GenerateArgs,
        invert::InvertArgs,
    },
    inversion::Inversion,
    picture,
    settings::Settings,
};

/// Most inversions that are kept.
const KEPT: usize = 16;

/// The latest inversions of a model, by what they depend on.
#[derive(Default)]
pub(super) struct Inversions(Vec<(String, Inverted)>);

impl Inversions {
    /// The inversion of this key, else a new one, which is kept.
    fn of(&mut self, key: &str, new: impl FnOnce() -> Result<Inverted>) -> Result<Inverted> {
        let found = self.0.iter().position(|(kept, _)| kept == key);
        let entry = match found {
            Some(at) => self.0.remove(at),
            None => (key.to_owned(), new()?),
        };
        let inverted = entry.1.clone();
        self.0.push(entry);
        if self.0.len() > KEPT {
            self.0.remove(0);
        }
        Ok(inverted)
    }
}

/// The targets of a job in the walk of several, and its share of the time.
struct Walked<'a> {
    edited: &'a Edited,
    targets: Range<usize>,
    time: Duration,
}

/// What jobs of a model run on.
pub(super) struct Run<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) inversions: &'a mut Inversions,
    pub(super) reader: &'a mut Reader,
    pub(super) results: &'a Results,
    pub(super) console: &'a mut Console,
}

impl Run<'_> {
    /// Generates the pictures of a job that are not finished, each written when it is made.
    pub(super) fn generate(
        &mut self,
        args: &GenerateArgs,
        ready: &Ready,
        todo: &[usize],
    ) -> Result<()> {
        let settings = ready.task.settings.clone();
        let prepared = args.prepared(self.pipeline, settings, self.console)?;
        for &index in todo {
            let began = Instant::now();
            let (_, pictures) = prepared.pictures(self.pipeline, &[index], self.console)?;
            let settings = prepared.settings(index);
            let bytes = encoded(&ready.task, index, &pictures[0], &settings)?;
            self.publish(&ready.task, index, (&settings, &bytes), began)?;
        }
        Ok(())
    }

    /// Inverts the picture of a job.
    pub(super) fn invert(&mut self, args: &InvertArgs, ready: &Ready) -> Result<()> {
        let (began, task) = (Instant::now(), &ready.task);
        let read = self.reader.inverted(args, self.console)?;
        let settings = of_inverted(args, task, &read.1, self.pipeline)?;
        let Input::Photo(photo) = &read.0 else {
            bail!("latents are inverted already");
        };
        let placed = args.placed(photo, self.pipeline.model(), self.console)?;
        let inversion: Inversion = args.inversion(self.pipeline, &placed, self.console)?;
        let cache = args.cache.as_ref();
        let key = inversion_key(task, &inversion.invert.method);
        let inverted = self
            .inversions
            .of(&key, || Ok(inversion.cached(cache, self.console)?.inverted))?;
        let bytes = inversion.latents(inverted)?.encoded()?;
        self.publish(task, 0, (&settings, &bytes), began)
    }

    /// Edits a picture as several jobs say that differ in their targets alone: inverted once
    /// and walked together. The first that fails to be prepared fails all.
    pub(super) fn edit(&mut self, jobs: &[(&EditArgs, &Ready, &[usize])]) -> Result<()> {
        let began = Instant::now();
        let (first, ..) = jobs.first().context("no jobs")?;
        let read = self.reader.edited(first, self.console)?;
        let mask = self.reader.mask(first, self.console)?;
        let mut edits = Vec::new();
        for (args, ready, _) in jobs {
            let given = Given {
                input: &read.0,
                mask: mask.as_deref(),
                settings: of_input(&ready.task, &read.1)?,
            };
            edits.push(args.prepared(given, self.pipeline, self.console)?);
        }
        let (head, task) = (&edits[0], &jobs[0].1.task);
        let key = inversion_key(task, &head.request.method);
        let inverted = self.inversions.of(&key, || {
            head.inverted(self.pipeline, first.cache.as_ref(), self.console)
        })?;
        let all = edits.iter().flat_map(|edit| edit.request.targets.clone());
        let request = Edit {
            targets: all.collect(),
            ..head.request.clone()
        };
        let edited = self.pipeline.edit(&inverted, &request, self.console)?;
        let (mut target, time) = (0, began.elapsed() / request.targets.len() as u32);
        for (edit, (_, ready, todo)) in edits.iter().zip(jobs) {
            let walked = Walked {
                edited: &edited,
                targets: target..target + edit.request.targets.len(),
                time,
            };
            target = walked.targets.end;
            self.finish(edit, &ready.task, todo, &walked)?;
        }
        Ok(())
    }

    /// Decodes and writes the results of a job, one after another.
    fn finish(
        &mut self,
        edit: &Prepared,
        task: &Task,
        todo: &[usize],
        walked: &Walked,
    ) -> Result<()> {
        let settings = edit.settings(self.pipeline.model())?;
        let finish = edit.finish(self.console);
        for &index in todo {
            let now = Instant::now();
            let began = now.checked_sub(walked.time).unwrap_or(now);
            let row = walked.targets.start + index;
            let own = walked.edited.of_targets(&(row..row + 1))?;
            let decoded = self.pipeline.decode(&own.targets, self.console)?;
            let mut finished = finish.pictures(&decoded, &own, finish.size);
            let picture = finished.next().context("a decoded picture")??;
            let bytes = encoded(task, index, &picture, &settings[index])?;
            self.publish(task, index, (&settings[index], &bytes), began)?;
        }
        Ok(())
    }

    fn publish(
        &mut self,
        task: &Task,
        index: usize,
        (settings, bytes): (&Settings, &[u8]),
        began: Instant,
    ) -> Result<()> {
        let fingerprint: &Fingerprint = &settings.fingerprint(task.is_random);
        self.results.publish(&Made {
            task,
            index,
            fingerprint,
            bytes,
            seconds: began.elapsed().as_secs_f64(),
            evaluations: self.console.evaluations().len(),
        })
    }
}

/// What tells the inversions of a model apart.
fn inversion_key(task: &Task, method: &Method) -> String {
    let [_, inversion] = task.shared();
    format!("{inversion} {}", method.inversion_key().unwrap_or_default())
}

/// The bytes of a result, with its settings unless the job leaves them out.
fn encoded(
    task: &Task,
    index: usize,
    picture: &icd::picture::Picture,
    settings: &Settings,
) -> Result<Vec<u8>> {
    let settings = (!task.is_without_metadata()).then_some(settings);
    let file: &Path = &task.files[index];
    picture::encoded(picture, file, settings)
}
