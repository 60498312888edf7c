//! Versions of the way in which edits are measured.

use std::fmt;

use clap::ValueEnum;

use super::Antialias;
use crate::picture::{Border, Picture};

/// A version of the way in which PnPInversion's evaluation measures edits: the libraries that
/// it calls have changed since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// As the published table of 2023: SSIM without the border, pictures resized without
    /// antialiasing for the structure distance, results through JPEG of quality 75.
    #[value(name = "pie-2023")]
    Pie2023,
    /// As the same code computes with current libraries: SSIM with the border (torchmetrics from
    /// 1.4.2), antialiasing (torchvision from 0.17), results as they are.
    #[default]
    #[value(name = "pie-now")]
    PieNow,
}

impl Protocol {
    /// The border of SSIM.
    pub fn border(self) -> Border {
        match self {
            Self::Pie2023 => Border::Cut,
            Self::PieNow => Border::Mirrored,
        }
    }

    /// How pictures are resized for the structure distance.
    pub fn antialias(self) -> Antialias {
        match self {
            Self::Pie2023 => Antialias::Off,
            Self::PieNow => Antialias::On,
        }
    }

    /// A result as a method saves it, if it was read from these bytes.
    pub fn as_saved(self, result: Picture, bytes: &[u8]) -> Picture {
        let is_jpeg = bytes.starts_with(&[0xff, 0xd8]);
        match self.jpeg_quality().filter(|_| !is_jpeg) {
            Some(quality) => result.through_jpeg(quality),
            None => result,
        }
    }

    /// The quality of the JPEG that results go through before they are measured, unless they
    /// are JPEG: methods saved them as such.
    pub fn jpeg_quality(self) -> Option<u8> {
        match self {
            Self::Pie2023 => Some(75),
            Self::PieNow => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pie2023 => "pie-2023",
            Self::PieNow => "pie-now",
        })
    }
}
