//! Many jobs in one process: each is parsed by its verb's own command, checked before any
//! network is loaded, and run on networks that stay in memory.

pub(crate) mod check;
mod fingerprint;
pub(crate) mod jobs;
pub(crate) mod manifest;
pub(crate) mod parser;
pub(crate) mod plan;
mod reader;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod runner;
pub(crate) mod status;
pub(crate) mod task;
mod walk;
pub(crate) mod worker;
mod workers;
