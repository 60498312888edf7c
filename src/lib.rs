//! Invertible Consistency Distillation: edit a real picture with two prompts.
//!
//! A forward consistency model carries a picture into noise in three or four
//! steps; a reverse one carries it back under another prompt in as many
//! (iCD, arXiv 2406.14539). Dynamic guidance keeps the way back close to the
//! picture, prompt-to-prompt attention control (arXiv 2208.01626) keeps its
//! layout. Models are Stable Diffusion 1.5 and XL in the diffusers layout, with
//! the published LoRA adapters.
//!
//! # The idea
//!
//! Everything is one loop: at timestep t predict the noise, then *jump* along
//! the ODE to timestep s ([`Schedule::jump`](schedule::Schedule::jump)).
//! Inversion, generation and editing are that loop ([`edit::walk`]) with another
//! network, path or control.
//!
//! ```text
//! picture -> vae.encode -> walk(forward net, forward path)
//!         -> walk(reverse net, reverse path, control) -> vae.decode -> picture
//! weights file -> Weights (+ adapter, merged or beside) -> Unet
//! captioned pictures -> distil -> adapters -> files
//! ```
//!
//! # The map
//!
//! Rooms from the roof to the ground; each may use those below it, never those
//! above.
//!
//! | room | what lives there | what never does |
//! |---|---|---|
//! | `cli` (in the binary) | arguments as typed, one `run` per verb, progress, printing | |
//! | [`distil`] | the losses of both distillations, the optimiser, runs that can be stopped | printing |
//! | [`convert`] | weights files in another form: another type, other names, adapters merged | networks |
//! | [`edit`] | the walk; invert, edit, generate; prompt-to-prompt and local blend | file formats |
//! | [`model`] | UNet, attention and its control port, autoencoder, text encoders, families and presets, the bundled toy `shapes` | editing; prompts as strings of words |
//! | [`lora`] | adapter files: namings, scales | |
//! | [`nn`] | layers, and [`Weights`](nn::Weights), the cursor into checkpoints where adapters meet layers | Stable Diffusion |
//! | [`kernel`] | CPU kernels, each tested against a plain form of its formula; the profile by operation | `unsafe`; Stable Diffusion |
//! | [`hub`] | where files come from: a folder, the program itself, the hub, from which they are planned, fetched and checked | tensors |
//! | [`latents`], [`picture`], [`prompt`], [`noise`], [`schedule`], [`guidance`], [`mod@file`], [`error`] | the ground: small, pure, tested to the bit where the reference is exact | |
//!
//! Nothing outside `cli` prints or picks a device, or reads the environment, but
//! for `ICD_SIMD`, which limits the instruction set of the kernels, and what all
//! programs of the hub read ([`hub::Hub::from_env`], [`hub::Cache::from_env`]).
//! Nothing is fetched unless [`hub::Hub::fetch`] is called.
//! Randomness is an argument: one seed gives the reference's noise everywhere.
//!
//! # Notation
//!
//! x latent, eps predicted noise, t and s timesteps (0 clean, 999 noise),
//! a and s signal and noise levels, w guidance strength (0 is unguided), tau
//! where guidance ends. Shapes: b batch or rows, c channels, h and w height
//! and width, n queries, m keys or tokens, d width of a head.
//!
//! # Example
//!
//! ```
//! use icd::{
//!     edit::{Edit, edit, invert},
//!     guidance::{Guidance, Tau},
//!     model::{Model, ModelChoice},
//!     nn::Storage,
//!     picture::{Picture, Size},
//! };
//!
//! let model = Model::open(&ModelChoice::named("tests/data/sd"), Storage::plain())?;
//! let photo = Picture::read("tests/data/photo.png".as_ref())?.resized(Size::new(64, 64));
//!
//! let source = "a photo of a bird";
//! let noise = invert(&model, &photo.to_tensor(model.device())?, source, 0, &mut |_| {})?;
//! let guidance = Guidance::new(19.0, Tau::step(0.8)?)?;
//! let request = Edit::new(source, "a photo of a dog", guidance);
//! let edited = edit(&model, &noise, &request, &mut |_| {})?;
//! let picture = Picture::from_tensor(&model.vae()?.decode(&edited.targets)?)?;
//! assert_eq!(picture.size(), Size::new(64, 64));
//! # Ok::<(), icd::Error>(())
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test may fail")
)]

pub mod convert;
pub mod distil;
pub mod edit;
pub mod model;

pub mod lora;

pub mod kernel;
pub mod nn;

pub mod hub;

pub mod error;
pub mod file;
pub mod guidance;
pub mod latents;
pub mod noise;
pub mod picture;
pub mod prompt;
pub mod schedule;
pub mod source;

pub use error::{Error, Result};
