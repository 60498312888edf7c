//! Files: atomic writing, sources on disk or built into the program, checkpoints.

mod atomic;
mod checkpoint;
mod parse;
mod read;
mod source;
mod tensors;

pub use atomic::{AtomicFile, Existing, Held, check_writable, hold_writing, write_file};
pub(crate) use checkpoint::shard_names;
pub use checkpoint::{Checkpoint, View, safetensors_metadata};
pub use parse::parse_toml;
pub use read::{read_file, read_text};
pub use source::Source;
pub use tensors::{Metadata, Tensors, write_tensors};
pub(crate) use tensors::{by_width, header};
