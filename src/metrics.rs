//! Measures of edits: how much of a picture an edit preserves, and how well the result shows
//! what was asked for.
//!
//! | measure | network | range |
//! |---|---|---|
//! | PSNR, SSIM, mean squared error | none | dB, up to 1, from 0 |
//! | [`Lpips`] | SqueezeNet 1.1 and linear layers | from 0 |
//! | [`ClipScore`] | CLIP, usually ViT-L/14 | 0 to 100 |
//! | [`StructureDistance`] | DINO, usually ViT-B/8 | from 0 |
//! | [`Dinov2`] | DINOv2, usually ViT-B/14 | -1 to 1 |
//!
//! A [`Suite`] is a choice of them; what it computes exactly depends on the [`Protocol`]. All
//! networks compute in f32. Their weights are given as files or folders, or are those of the
//! hub: see [`NetworkFiles`].

mod candle_weights;
mod clip_score;
mod dinov2;
mod files;
mod lpips;
mod mask;
mod original_names;
mod positions;
mod protocol;
mod resample;
mod squeezenet;
mod structure;
mod suite;
mod view;
mod vision_transformer;

pub use clip_score::ClipScore;
pub use dinov2::Dinov2;
pub use files::{Network, NetworkFiles};
pub use lpips::Lpips;
pub use mask::{Mask, Region};
pub use protocol::Protocol;
pub use resample::Antialias;
pub use structure::StructureDistance;
pub use suite::{Measure, Metric, Pair, Suite};
