//! A job whose settings were understood.

use std::path::{Path, PathBuf};

use anyhow::Result;
use icd::batch::Job;

use crate::cli::{
    args::{
        model::ModelArgs,
        output::{beside_name, numbered},
    },
    commands::{edit::EditArgs, generate::GenerateArgs, invert::InvertArgs},
    settings::Settings,
};

/// What a job does.
pub(crate) enum Work {
    Edit(Box<EditArgs>),
    Generate(Box<GenerateArgs>),
    Invert(Box<InvertArgs>),
}

/// A job.
pub(crate) struct Task {
    /// The line of the manifest.
    pub(crate) line: usize,
    /// The job as a list of failures keeps it.
    pub(crate) kept: Job,
    pub(crate) work: Work,
    /// Its settings as they were given, with defaults.
    pub(crate) settings: Settings,
    /// The hash of these.
    pub(crate) hash: String,
    /// Whether its seed was drawn: any seed is then that of a finished result.
    pub(crate) is_random: bool,
    /// Its results, in the folder of all.
    pub(crate) files: Vec<PathBuf>,
}

impl Task {
    /// What jobs may share: the model, and the inversion. Jobs of one inversion have the same
    /// input, source prompt, seed and size.
    pub(crate) fn shared(&self) -> [String; 2] {
        let inversion = self.work.inversion();
        let alone = || format!("line {}", self.line);
        [self.work.model_key(), inversion.unwrap_or_else(alone)]
    }

    /// What edits that can be walked together share; `None` for jobs that are walked alone.
    ///
    /// Local blend marks the source's words of all targets of a walk, so that targets of
    /// other jobs would change the result.
    pub(crate) fn walk(&self) -> Option<String> {
        match &self.work {
            Work::Edit(args) if !args.control.blends_by_words() => {
                Some(format!("{:?} {}", self.shared(), self.settings.of_walk()))
            }
            _ => None,
        }
    }

    /// Fails if the file of a result cannot hold its settings.
    pub(crate) fn check_settings(&self, file: &Path, settings: &Settings) -> Result<()> {
        match &self.work {
            Work::Edit(args) => args.result.save.check_settings(file, settings),
            Work::Generate(args) => args.save.check_settings(file, settings),
            Work::Invert(_) => Ok(()),
        }
    }

    /// Whether its results carry no settings.
    pub(crate) fn is_without_metadata(&self) -> bool {
        match &self.work {
            Work::Edit(args) => args.result.save.no_metadata,
            Work::Generate(args) => args.save.no_metadata,
            Work::Invert(_) => true,
        }
    }
}

impl Work {
    pub(crate) fn model(&self) -> &ModelArgs {
        match self {
            Self::Edit(args) => &args.model,
            Self::Generate(args) => &args.model,
            Self::Invert(args) => &args.model,
        }
    }

    /// What tells models apart.
    pub(crate) fn model_key(&self) -> String {
        format!("{:?}", self.model())
    }

    /// The picture or the latents.
    pub(crate) fn input(&self) -> Option<&Path> {
        match self {
            Self::Edit(args) => args.input(),
            Self::Generate(_) => None,
            Self::Invert(args) => Some(&args.image),
        }
    }

    /// All files that it reads, beside those of the model.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Path> {
        let mask = match self {
            Self::Edit(args) => args.result.mask.as_deref(),
            _ => None,
        };
        self.input().into_iter().chain(mask)
    }

    /// What tells inversions of a model apart.
    fn inversion(&self) -> Option<String> {
        match self {
            Self::Edit(args) => {
                let input = (&args.image, &args.latents, args.src_prompt.as_deref());
                Some(format!("{input:?} {:?} {:?}", args.seed, args.size))
            }
            Self::Invert(args) => {
                let none: Option<PathBuf> = None;
                let input = (Some(&args.image), none, Some(args.prompt.as_str()));
                Some(format!("{input:?} {:?} {:?}", args.seed, args.size))
            }
            Self::Generate(_) => None,
        }
    }

    /// The name of its result, where none is given, with the hash of its settings.
    pub(crate) fn name(&self, hash: &str) -> PathBuf {
        match self {
            Self::Edit(args) => {
                let input = args.input().unwrap_or(Path::new(""));
                beside_name(input, &format!("edited-{hash}"), ".png")
            }
            Self::Generate(_) => format!("generated-{hash}.png").into(),
            Self::Invert(args) => {
                beside_name(&args.image, &format!("latents-{hash}"), ".safetensors")
            }
        }
    }

    /// The files of its results, which this name numbers if they are several.
    pub(crate) fn files(&self, file: &Path) -> Vec<PathBuf> {
        let count = match self {
            Self::Edit(args) => args.tgt_prompt.len(),
            Self::Generate(args) => args.count as usize,
            Self::Invert(_) => 1,
        };
        (1..=count).map(|i| numbered(file, i, count)).collect()
    }

    /// Draws a random seed, once for the check and the run; whether it was one.
    pub(crate) fn settle_seed(&mut self) -> bool {
        let seed = match self {
            Self::Edit(args) => &mut args.seed,
            Self::Generate(args) => &mut args.seed,
            Self::Invert(args) => &mut args.seed,
        };
        let (settled, is_random) = seed.settled();
        *seed = settled;
        is_random
    }
}
