//! Argument groups shared by several commands, and their value types.

pub(crate) mod control;
pub(crate) mod device;
pub(crate) mod measure;
pub(crate) mod method;
pub(crate) mod model;
pub(crate) mod output;
pub(crate) mod result;
pub(crate) mod shard;
pub(crate) mod size;
pub(crate) mod sweep;
pub(crate) mod values;
