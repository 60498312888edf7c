//! Files: atomic writing, sources on disk or built into the program, checkpoints.

mod atomic;
mod checkpoint;
mod digest;
mod known;
mod pickle;
mod pipe;
mod quantized;
mod read;
mod source;
mod tensors;
mod text;

pub use atomic::{AtomicFile, Existing, Held, check_writable, hold_writing, resolved, write_file};
pub(crate) use checkpoint::shard_names;
pub use checkpoint::{Checkpoint, View, safetensors_metadata};
pub use digest::Digests;
pub use known::{KnownFile, Role};
pub(crate) use pipe::{is_special, kept};
pub use read::read_file;
pub use source::{BuiltIn, Source};
pub use tensors::{Metadata, Tensors, encoded_tensors, write_quantized, write_tensors};
pub(crate) use tensors::{by_width, header};
pub(crate) use text::decoded as decoded_text;
