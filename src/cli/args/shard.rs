//! The part of the work that a process does.

use std::str::FromStr;

use anyhow::Result;
use icd::{
    Error,
    batch::{AutoShard, Shard},
};

/// The shard of `--shard`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShardChoice {
    Given(Shard),
    Auto(AutoShard),
}

impl FromStr for ShardChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.starts_with("auto") {
            true => text.parse().map(Self::Auto),
            false => text.parse().map(Self::Given),
        }
    }
}

impl ShardChoice {
    /// The shard, which `auto` finds in the variables of the engine.
    pub(crate) fn shard(self) -> Result<Shard> {
        let variable = |name: &str| std::env::var(name).ok();
        match self {
            Self::Given(shard) => Ok(shard),
            Self::Auto(auto) => Ok(auto.found(&variable)?),
        }
    }
}
