//! An edit whose files and words are checked: all that is left are its networks.

use std::path::PathBuf;

use anyhow::Result;
use icd::{
    Error,
    control::Anchor,
    diffusion::Inverted,
    model::Model,
    picture::{Picture, Size},
    pipeline::{Edit, Invert, Method, Outputs, Pipeline, Workload},
    prompt::Prompt,
};

use super::EditArgs;
use crate::cli::{
    Console, ReportArgs,
    args::result::KeepPixels,
    canvas::{Frame, Input, ResultSize},
    inversion::Inversion,
    keep::{Finish, Keeping},
    settings::Settings,
    ui::{
        dry_run::{self, Work},
        prompts::warn_of_edit,
        warnings::{
            warn_of_blend, warn_of_factors, warn_of_guidance, warn_of_masactrl,
            warn_of_other_model, warn_of_size,
        },
    },
};

/// The files of an edit, as they were read, and its settings with their hash.
pub(crate) struct Given<'a> {
    pub(crate) input: &'a Input,
    pub(crate) mask: Option<&'a Picture>,
    pub(crate) settings: Settings,
}

/// An edit that was checked against its model; no network was loaded.
pub(crate) struct Prepared<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) request: Edit,
    pub(crate) seed: u64,
    /// The source prompt and those of the targets.
    prompts: Vec<Prompt>,
    /// The rows of each evaluation.
    evaluations: Vec<usize>,
    mask: Option<&'a Picture>,
    keep_pixels: Option<KeepPixels>,
    size: ResultSize,
    settings: Settings,
}

impl EditArgs {
    /// Checks the edit of these files against the model.
    pub(crate) fn prepared<'a>(
        &self,
        given: Given<'a>,
        pipeline: &Pipeline,
        console: &Console,
    ) -> Result<Prepared<'a>> {
        let model = pipeline.model();
        let frame = Frame::of(given.input, self.size, model)?;
        if self.result.restore_size {
            frame.check_restorable()?;
        }
        let request = self.request(model, &frame, given.mask)?;
        self.check_latents(given.input, &request, console)?;
        let prompts = request.tokenize(model)?;
        let evaluations = pipeline.rows_evaluated(&request, &prompts)?; // fails on unknown words
        warn_of_edit(model, &prompts, console)?;
        warn(model, (&frame, &request), &given.settings, console)?;
        let seed = self.seed.told(console);
        Ok(Prepared {
            size: self.result_size(&frame),
            settings: given.settings.with("seed", seed),
            mask: given.mask,
            keep_pixels: self.result.keep_pixels,
            frame,
            request,
            seed,
            prompts,
            evaluations,
        })
    }

    fn check_latents(&self, input: &Input, request: &Edit, console: &Console) -> Result<()> {
        if let Input::Latents(file, latents) = input {
            let chosen = (&request.method, request.guidance);
            self.method
                .check_latents((file, latents), chosen, console)?;
        }
        Ok(())
    }

    fn request(&self, model: &Model, frame: &Frame, mask: Option<&Picture>) -> Result<Edit> {
        let latents = frame.latents();
        let stated = latents.map(|latents| latents.prompt.clone());
        let prompt = self.src_prompt.clone();
        let prompt = prompt.or_else(|| stated.filter(|prompt| !prompt.is_empty()));
        let reason = "the latents do not state what the picture shows: pass --src-prompt";
        let prompt = prompt.ok_or_else(|| Error::setting(reason))?;
        let given = self.control.guidance();
        let chosen = self.method.chosen(model, given, latents)?;
        let targets = self.tgt_prompt.clone();
        let request = self.control.edit(model, chosen, prompt, targets);
        let result = &self.result;
        let mask = mask.map(|mask| frame.latent_mask(mask, model.device()));
        let attention = result.attention_maps.is_some();
        let source = attention || result.save.dump.is_some() || result.comparison.is_some();
        Ok(Edit {
            mask: mask.transpose()?,
            outputs: Outputs { source, attention },
            ..request
        })
    }

    /// The size of the results: the photo's, unless another was asked for.
    fn result_size(&self, frame: &Frame) -> ResultSize {
        let by_default = frame.placed().is_some() && !self.size.is_given();
        match self.result.restore_size || by_default && !self.result.model_size {
            true => ResultSize::Photo,
            false => ResultSize::Work,
        }
    }
}

impl Prepared<'_> {
    /// The settings of each result, as they took effect.
    pub(crate) fn settings(&self, model: &Model) -> Result<Vec<Settings>> {
        let of = |target| {
            let settings = self.settings.clone();
            settings.of_edit(model, &self.request, (&self.prompts[0], target))
        };
        self.prompts[1..].iter().map(of).collect()
    }

    /// Tells what the edit would do and take.
    pub(crate) fn print_plan(
        &self,
        pipeline: &Pipeline,
        report: ReportArgs,
        console: &Console,
    ) -> Result<()> {
        let model = pipeline.model();
        self.finish(console);
        console.clear();
        let result = self.result_size(model)?;
        let work = Work::of(pipeline, self.workload(model)?, result)?;
        dry_run::print_edit(model, &self.request, &self.prompts, &work, report.json)
    }

    /// The size of the results.
    pub(crate) fn result_size(&self, model: &Model) -> Result<Size> {
        self.frame.result(model, self.size)
    }

    /// What the networks have to do.
    pub(crate) fn workload(&self, model: &Model) -> Result<Workload> {
        let inversion = self.inversion_evaluations(model)?;
        Ok(Workload {
            latent: self.frame.latent()?,
            evaluations: [&inversion[..], &self.evaluations].concat(),
            encoded: usize::from(self.frame.placed().is_some()),
            decoded: self.request.targets.len() + usize::from(self.request.outputs.source),
        })
    }

    /// The rows of each evaluation of the inversion; none of what is inverted already.
    pub(super) fn inversion_evaluations(&self, model: &Model) -> Result<Vec<usize>> {
        match self.frame.placed() {
            Some(_) => Ok(self.request.method.inversion_evaluations(model)?),
            None => Ok(Vec::new()),
        }
    }

    /// The input, inverted, on the model's device; a picture's inversion may be in `cache`.
    pub(crate) fn inverted(
        &self,
        pipeline: &Pipeline,
        cache: Option<&PathBuf>,
        console: &mut Console,
    ) -> Result<Inverted> {
        let inverted = match &self.frame {
            Frame::Photo(placed, _) => {
                let inversion = Inversion {
                    pipeline,
                    placed,
                    invert: Invert {
                        prompt: self.request.source.clone(),
                        seed: self.seed,
                        method: self.request.method.clone(),
                    },
                };
                inversion.cached(cache, console)?.inverted
            }
            Frame::Latents(latents, _) => latents.inverted.clone(),
        };
        Ok(inverted.to_device(pipeline.model().device())?)
    }

    /// How results are finished. Notes why no pixels are kept where some might be expected.
    pub(crate) fn finish(&self, console: &Console) -> Finish<'_> {
        let (frame, size) = (&self.frame, self.size);
        let keeper = match Keeping::of(self.keep_pixels, (frame, size), &self.request, self.mask) {
            Keeping::Yes(keeper) => Some(keeper),
            Keeping::No => None,
            Keeping::Impossible(reason) => {
                console.note_once(reason);
                None
            }
        };
        Finish {
            frame,
            keeper,
            size,
        }
    }
}

/// Notes that latents of unknown trajectory cannot be anchored.
fn note_unanchored(frame: &Frame, edit: &Edit, console: &Console) {
    if let Frame::Latents(latents, _) = frame
        && edit.control.anchor == Anchor::On
        && latents.inverted.trajectory.is_empty()
    {
        console.note_once(
            "the latents do not state the steps of the inversion, so the source is not anchored: \
             invert the picture again",
        );
    }
}

/// Warns about settings that are hardly meant.
fn warn(
    model: &Model,
    (frame, edit): (&Frame, &Edit),
    settings: &Settings,
    console: &Console,
) -> Result<()> {
    warn_of_guidance(edit.guidance, console);
    warn_of_factors(&edit.control, console);
    warn_of_masactrl(&edit.control, console);
    warn_of_blend(&edit.control, console);
    warn_of_size(model, frame.worked(model)?, console)?;
    note_unanchored(frame, edit, console);
    warn_of_other_model(model, settings, console)?;
    match (frame.placed(), &edit.method) {
        (Some(_), Method::Icd) => warn_of_gap(model, console),
        _ => Ok(()),
    }
}

/// Warns if the reverse timesteps do not start where the forward ones end.
fn warn_of_gap(model: &Model, console: &Console) -> Result<()> {
    let (end, start) = (
        model.forward_timesteps()?.end(),
        model.reverse_timesteps()?.start(),
    );
    if end != start {
        console.warn(&format!(
            "forward timesteps end at {}, reverse timesteps start at {}: the picture will be worse",
            end.0, start.0
        ));
    }
    Ok(())
}
