//! Evaluation over many pictures: the data sets, what is measured of each edit, and the tables
//! and the report of it.
//!
//! | data | what it is |
//! |---|---|
//! | [`pie_bench`] | PIE-Bench's `mapping_file.json` with its masks |
//! | [`list`] | a CSV with `file_name`, `old_caption` and `edited_caption`, as in the reference of iCD |
//! | [`folder`] | pictures with captions and masks beside them |
//! | [`bundled`] | scenes of the bundled world, whose true edits are known |
//!
//! Nothing here runs a model. Each edit is a [`Sample`]; [`Judge`] measures its result;
//! [`Scores`] keeps what was measured, [`Summary`] has the means.

pub mod bundled;
pub mod folder;
mod judge;
pub mod list;
pub mod pie_bench;
mod published;
mod report;
mod sample;
mod scores;
mod summary;
mod tables;
pub mod world;

pub use judge::{Judge, Judged, lower_right};
pub use published::{Published, RESULTS};
pub use report::{Report, Shown};
pub use sample::{Area, Data, Sample};
pub use scores::{Column, Score, Scores, text_of};
pub use summary::{Mean, Summary};
pub use tables::{csv, metrics_json};
