//! Several measures of one edit.

use std::fmt;

use clap::ValueEnum;

use super::{
    ClipScore, Dinov2, Lpips, Mask, Network, NetworkFiles, Protocol, Region, StructureDistance,
};
use crate::{error::Result, nn::Placement, picture::Picture};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Metric {
    /// Peak signal-to-noise ratio in dB.
    Psnr,
    /// Structural similarity.
    Ssim,
    /// Mean squared error of values from 0 to 1.
    Mse,
    /// LPIPS with SqueezeNet 1.1.
    Lpips,
    /// CLIP score of the prompts.
    Clip,
    /// Structure distance by DINO.
    Structure,
    /// Similarity of DINOv2's states.
    Dinov2,
}

impl Metric {
    /// The network that it needs.
    pub fn network(self) -> Option<Network> {
        match self {
            Self::Psnr | Self::Ssim | Self::Mse => None,
            Self::Lpips => Some(Network::Lpips),
            Self::Clip => Some(Network::Clip),
            Self::Structure => Some(Network::Dino),
            Self::Dinov2 => Some(Network::Dinov2),
        }
    }

    fn measures(self) -> &'static [Measure] {
        match self {
            Self::Psnr => &[Measure::Psnr],
            Self::Ssim => &[Measure::Ssim],
            Self::Mse => &[Measure::Mse],
            Self::Lpips => &[Measure::Lpips],
            Self::Clip => &[
                Measure::ClipSource,
                Measure::ClipTarget,
                Measure::ClipTargetEdited,
            ],
            Self::Structure => &[Measure::Structure],
            Self::Dinov2 => &[Measure::Dinov2],
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Psnr => "psnr",
            Self::Ssim => "ssim",
            Self::Mse => "mse",
            Self::Lpips => "lpips",
            Self::Clip => "clip",
            Self::Structure => "structure",
            Self::Dinov2 => "dinov2",
        })
    }
}

/// A number that is measured of an edit, in the order of PnPInversion's evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// The structure distance of the whole pictures.
    Structure,
    /// PSNR of what is to be preserved, all pixels counted: those that may change are black.
    Psnr,
    /// LPIPS of the same.
    Lpips,
    /// The mean squared error of the same.
    Mse,
    /// SSIM of the same.
    Ssim,
    /// The CLIP score of the source with its prompt.
    ClipSource,
    /// The CLIP score of the result with its prompt.
    ClipTarget,
    /// The CLIP score of what may change of the result, the rest black, with the whole prompt.
    ClipTargetEdited,
    /// The similarity of the whole pictures to DINOv2.
    Dinov2,
}

impl Measure {
    /// All, in their order.
    pub const ALL: [Self; 9] = [
        Self::Structure,
        Self::Psnr,
        Self::Lpips,
        Self::Mse,
        Self::Ssim,
        Self::ClipSource,
        Self::ClipTarget,
        Self::ClipTargetEdited,
        Self::Dinov2,
    ];

    /// The name in PnPInversion's evaluation, or one in its manner.
    pub fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure_distance",
            Self::Psnr => "psnr_unedit_part",
            Self::Lpips => "lpips_unedit_part",
            Self::Mse => "mse_unedit_part",
            Self::Ssim => "ssim_unedit_part",
            Self::ClipSource => "clip_similarity_source_image",
            Self::ClipTarget => "clip_similarity_target_image",
            Self::ClipTargetEdited => "clip_similarity_target_image_edit_part",
            Self::Dinov2 => "dinov2_similarity",
        }
    }
}

/// An edit to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The picture before.
    pub source: &'a Picture,
    /// The picture after.
    pub result: &'a Picture,
    /// What the edit may change; without one nothing may.
    pub mask: Option<&'a Mask>,
    /// What the source shows, if it is to be compared.
    pub source_prompt: Option<&'a str>,
    /// What the result should show, if it is to be compared.
    pub target_prompt: Option<&'a str>,
}

/// Measures with the networks that they need.
pub struct Suite {
    protocol: Protocol,
    metrics: Vec<Metric>,
    lpips: Option<Lpips>,
    clip: Option<ClipScore>,
    structure: Option<StructureDistance>,
    dinov2: Option<Dinov2>,
}

impl Suite {
    /// Loads what some metrics need; one without its network's files is an error.
    pub fn open(
        protocol: Protocol,
        metrics: &[Metric],
        files: &[NetworkFiles],
        placement: &Placement,
    ) -> Result<Self> {
        let wants = |network| {
            metrics
                .iter()
                .any(|metric| metric.network() == Some(network))
        };
        let of = |network| -> Result<Option<&NetworkFiles>> {
            let found = files.iter().find(|files| files.network() == network);
            match (wants(network), found) {
                (false, _) => Ok(None),
                (true, Some(files)) => Ok(Some(files)),
                (true, None) => Err(crate::Error::setting(format!(
                    "the weights of {network} are not given"
                ))),
            }
        };
        let [lpips, clip, dino, dinov2] = [
            Network::Lpips,
            Network::Clip,
            Network::Dino,
            Network::Dinov2,
        ]
        .map(of);
        let open_structure =
            |files| StructureDistance::open(files, placement, protocol.antialias());
        let mut metrics = metrics.to_vec();
        metrics.sort_unstable();
        metrics.dedup();
        Ok(Self {
            protocol,
            lpips: lpips?
                .map(|files| Lpips::open(files, placement))
                .transpose()?,
            clip: clip?
                .map(|files| ClipScore::open(files, placement))
                .transpose()?,
            structure: dino?.map(open_structure).transpose()?,
            dinov2: dinov2?
                .map(|files| Dinov2::open(files, placement))
                .transpose()?,
            metrics,
        })
    }

    /// What is measured, in the order of [`Measure::ALL`].
    pub fn measures(&self) -> Vec<Measure> {
        let is_wanted = |measure: &Measure| {
            let mut metrics = self.metrics.iter();
            metrics.any(|metric| metric.measures().contains(measure))
        };
        Measure::ALL.into_iter().filter(is_wanted).collect()
    }

    /// All measures of an edit that its prompts and its mask allow.
    pub fn measured(&self, pair: &Pair) -> Result<Vec<(Measure, f64)>> {
        let preserved = Preserved::of(pair)?;
        let mut values = Vec::new();
        for measure in self.measures() {
            if let Some(value) = self.value(measure, pair, &preserved)? {
                values.push((measure, value));
            }
        }
        Ok(values)
    }

    /// A measure; not a number where its region is empty, none where its prompt or its mask is
    /// not there.
    fn value(&self, measure: Measure, pair: &Pair, preserved: &Preserved) -> Result<Option<f64>> {
        let prompt = match measure {
            Measure::ClipSource => pair.source_prompt,
            _ => pair.target_prompt,
        };
        let clip = |picture: &Picture| {
            let both = self.clip.as_ref().zip(prompt);
            both.map(|(clip, prompt)| clip.score(picture, prompt))
                .transpose()
        };
        match measure {
            Measure::Structure => {
                let structure = self.structure.as_ref();
                let distance = structure.map(|own| own.distance(pair.source, pair.result));
                distance.transpose()
            }
            Measure::Dinov2 => {
                let dinov2 = self.dinov2.as_ref();
                let similarity = dinov2.map(|own| own.similarity(pair.source, pair.result));
                similarity.transpose()
            }
            Measure::ClipSource => clip(pair.source),
            Measure::ClipTarget => clip(pair.result),
            Measure::ClipTargetEdited => match pair.mask {
                None => Ok(None),
                Some(mask) if mask.is_empty(Region::Edited) => Ok(Some(f64::NAN)),
                Some(mask) => clip(&mask.applied(pair.result, Region::Edited)?),
            },
            Measure::Psnr | Measure::Mse | Measure::Ssim | Measure::Lpips => {
                self.likeness(measure, preserved).map(Some)
            }
        }
    }

    fn likeness(&self, measure: Measure, preserved: &Preserved) -> Result<f64> {
        let Preserved::Pixels(source, result) = preserved else {
            return Ok(f64::NAN);
        };
        match measure {
            Measure::Psnr => source.psnr(result),
            Measure::Mse => source.mse(result),
            Measure::Ssim => source.ssim_with(result, self.protocol.border()),
            _ => match &self.lpips {
                Some(lpips) => lpips.distance(source, result),
                None => Ok(f64::NAN),
            },
        }
    }
}

/// What is to be preserved of both pictures, the rest black.
enum Preserved {
    Nothing,
    Pixels(Picture, Picture),
}

impl Preserved {
    fn of(pair: &Pair) -> Result<Self> {
        let part = |picture: &Picture| match pair.mask {
            Some(mask) => mask.applied(picture, Region::Preserved),
            None => Ok(picture.clone()),
        };
        match pair
            .mask
            .is_some_and(|mask| mask.is_empty(Region::Preserved))
        {
            true => Ok(Self::Nothing),
            false => Ok(Self::Pixels(part(pair.source)?, part(pair.result)?)),
        }
    }
}
