//! Where files come from: a folder, the program itself, or a repository of the
//! Hugging Face hub, whose files lie in the cache that all its programs share.
//!
//! Reading never fetches. What is needed is known before ([`Need`]), what of it
//! is missing is planned ([`Hub::plan`]) so that a person can see and allow it,
//! and then fetched ([`Hub::fetch`]).

mod archive;
mod cache;
mod digest;
mod download;
mod home;
mod listing;
mod lock;
mod plan;
mod reference;
mod remote;
mod repository;

pub use archive::unpack;
pub use cache::Cache;
pub use digest::Digest;
pub use download::Progress;
pub use home::{BuiltInFile, Home};
pub use listing::RemoteFile;
pub use plan::{Need, Plan, Wanted, repositories};
pub use reference::Reference;
pub use remote::{Hub, Patience};
pub use repository::Repository;
