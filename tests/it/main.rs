//! The promises of `icd`, kept by the library and by the built program.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test that fails to unwrap has failed, and some floats must be equal"
)]

mod adapter_files;
mod adapters;
mod anchor;
mod batch;
mod bf16;
mod cases;
mod cli;
mod convert;
mod convert_faults;
mod cuda_kernels;
mod distil;
mod dump;
mod environment;
mod eval;
mod faults;
mod foreign_adapters;
mod full;
mod golden;
mod help;
mod hub;
mod inversion_cache;
mod keep_pixels;
mod layers;
mod methods;
mod metrics;
mod model_folders;
mod pictures;
mod readme;
mod reconstruct;
mod several;
mod shell;
mod single;
mod stage;
mod support;
mod surface;
mod sweep;
mod tabletop;
mod told;
mod training;
mod trust;
mod walks;
mod words;
mod world;
