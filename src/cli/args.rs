//! Groups of flags that several verbs share, and the values that flags take.

pub(crate) mod control;
pub(crate) mod device;
pub(crate) mod model;
pub(crate) mod output;
pub(crate) mod size;
pub(crate) mod values;
