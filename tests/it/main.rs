//! The promises of `icd`, kept by the library and by the built program.

mod adapters;
mod cases;
mod cli;
mod golden;
mod support;
mod walks;
