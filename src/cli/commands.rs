//! One module per command.

pub(crate) mod batch;
pub(crate) mod completions;
pub(crate) mod distill;
pub(crate) mod edit;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod invert;
pub(crate) mod man;
pub(crate) mod metrics;
pub(crate) mod model;
