//! Sources of files: a folder, the program itself, or a repository of the Hugging
//! Face hub, whose files are in the cache shared with all programs that use the hub.
//!
//! Reading never downloads. The required files are known in advance
//! ([`RequiredFile`]); those that are missing are planned ([`Hub::plan`]), so that
//! the user can be asked, and then fetched ([`Hub::fetch`]).

mod archive;
mod cache;
mod client;
mod digest;
mod download;
mod environment;
mod file_tree;
mod listing;
mod location;
mod lock;
mod plan;
mod proxy;
mod redirect;
mod repository;
mod request;
mod retry_after;

pub use archive::unpack;
pub use cache::Cache;
pub use client::{Hub, RetryPolicy, root_certificates};
pub use digest::Digest;
pub use download::Progress;
pub use file_tree::{BuiltInFile, FileTree};
pub use listing::RemoteFile;
pub use location::Location;
pub use plan::{DownloadPlan, PlannedFile, RequiredFile, repositories};
pub use repository::Repository;
