//! Invertible Consistency Distillation: edit a real picture with two prompts.
//!
//! A forward consistency model inverts a picture to noise in three or four steps; a
//! reverse one denoises it under another prompt in as many (iCD, arXiv 2406.14539).
//! Dynamic guidance and prompt-to-prompt attention control (arXiv 2208.01626) preserve
//! what the prompts have in common. Models are Stable Diffusion 1.5 and XL in the
//! diffusers layout, with the published LoRA adapters.
//!
//! ```text
//! picture -> vae.encode -> walk(forward UNet, forward timesteps)
//!         -> walk(reverse UNet, reverse timesteps, controls) -> vae.decode -> picture
//! ```
//!
//! Both walks are one loop, [`Walk::run`](diffusion::Walk::run): predict the noise at
//! timestep t, then solve the probability-flow ODE to timestep s in one DDIM step
//! ([`NoiseSchedule::jump`](schedule::NoiseSchedule::jump)). [`Pipeline`](pipeline::Pipeline)
//! holds the networks and is where to start.
//!
//! # The map
//!
//! From the highest layer to the lowest; each uses those below it, never those above.
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` (in the binary) | arguments, one `run` per command, progress, printing |
//! | [`eval`] | data sets of edits, their tables and the report, the bundled world |
//! | [`batch`] | many jobs: manifests, shards, the ledger of results, the list of failures |
//! | [`convert`] | weights files rewritten: dtype, names, merged adapters |
//! | [`distill`] | guidance and consistency distillation: losses, AdamW, checkpoints |
//! | [`pipeline`] | a model's loaded networks: invert, edit, generate, reconstruct, decode, by any method |
//! | [`control`] | prompt-to-prompt, MasaCtrl, local blend, masks, the anchored source, the attention store |
//! | [`diffusion`] | the walk and its solvers, the noise prediction under guidance, null-text inversion, events |
//! | [`metrics`] | measures of edits: PSNR, SSIM, LPIPS, CLIP score, structure distance, DINOv2 |
//! | [`model`] | UNet, VAE, text encoders, families and presets, the bundled `tabletop` |
//! | [`lora`] | adapter files: their tensor names, alpha and weights |
//! | [`nn`] | layers, [`Weights`](nn::Weights), and [`Ops`](nn::ops::Ops), which a backend implements |
//! | [`kernel`] | CPU kernels, and with the feature `cuda` those of GPUs, each tested against the plain formula |
//! | [`layout`] | Stable Diffusion's original tensor names and diffusers' |
//! | [`hub`] | model files in a folder, in the program or on the hub; downloads |
//! | [`picture`], [`prompt`] | pixels and files of pictures; tokenizers and words |
//! | [`guidance`], [`schedule`], [`noise`] | guidance over timesteps, the noise schedule, PyTorch's random numbers |
//! | [`io`], [`error`] | checkpoints, hashes, atomic writes; the error type |
//!
//! Nothing outside `cli` prints, picks a device or reads the environment, except
//! `ICD_SIMD`, which limits the instruction set of the kernels, and the hub's variables
//! in [`hub::Hub::from_env`], [`hub::Cache::from_env`] and [`hub::root_certificates`]. Nothing is
//! downloaded unless [`hub::Hub::fetch`] is called. One seed gives the reference's noise on every
//! device.
//!
//! # Notation
//!
//! x latent, eps predicted noise, t and s timesteps (0 clean, 999 noise), alpha and
//! sigma signal and noise levels, w guidance scale (0 is unguided), tau the fraction of
//! the timesteps above which guidance is off. Shapes: b batch or rows, c channels, h and w
//! height and width, n queries, m keys or tokens, d width of a head.
//!
//! # Example
//!
//! ```
//! use icd::{
//!     diffusion::Silent,
//!     guidance::{Guidance, Tau},
//!     model::{Model, ModelChoice},
//!     nn::Placement,
//!     picture::{Picture, Size},
//!     pipeline::{Edit, Pipeline, Residency},
//! };
//!
//! let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32())?;
//! let pipeline = Pipeline::new(model, Residency::All);
//! let photo = Picture::read("tests/data/photo.png".as_ref())?.resized(Size::new(64, 64));
//! let photo = photo.to_tensor(pipeline.model().device())?;
//!
//! let source = "a photo of a bird";
//! let inverted = pipeline.invert(&photo, source, 0, &mut Silent)?;
//! let guidance = Guidance::new(19.0, Tau::step(0.8)?)?;
//! let edit = Edit::new(source, "a photo of a dog", guidance);
//! let edited = pipeline.edit(&inverted, &edit, &mut Silent)?;
//! let pictures = pipeline.decode(&edited.targets, &mut Silent)?;
//! assert_eq!(pictures[0].size(), Size::new(64, 64));
//! # Ok::<(), icd::Error>(())
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test may fail")
)]

// From the highest layer to the lowest.
pub mod eval;

pub mod batch;

pub mod convert;
pub mod distill;

pub mod pipeline;

pub mod control;

pub mod diffusion;

pub mod metrics;

pub mod model;

pub mod lora;

pub mod nn;

pub mod kernel;

pub mod layout;

pub mod hub;

pub mod picture;
pub mod prompt;

pub mod guidance;

pub mod schedule;

pub mod noise;

pub mod io;

pub mod error;

pub use error::{Error, Result};
