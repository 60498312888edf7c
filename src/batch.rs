//! Many jobs: the manifest that lists them, the shards that divide them between machines, the
//! ledger of what was made and the list of what failed.
//!
//! A job is a JSON object: its keys are the settings of one edit, generation or inversion.
//! Nothing here runs a job; each part is of use without the others.

mod csv;
mod engine;
mod failures;
mod folder;
mod job;
mod ledger;
mod manifest;
mod replace;
mod shard;
mod storage;

pub use engine::{AutoShard, Variables};
pub use failures::Failures;
pub use job::{Entry, Fault, Job};
pub use ledger::{Ledger, Part, Record, Records};
pub(crate) use ledger::{append, end_line, files};
pub use manifest::{MAX_LINE, entries, json_entry, read_line};
pub use replace::Replacement;
pub use shard::Shard;
pub use storage::{Disk, Kind, Stat, Storage};

pub use folder::jobs_of_folder;
