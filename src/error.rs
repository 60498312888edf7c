//! One error type for the library, told apart by whose fault it is.
//!
//! Every message names the file, tensor, word or setting at fault and, where
//! there is one, the way out. Inside [`nn`](crate::nn) and
//! [`model`](crate::model) most failures are tensor errors; they are wrapped
//! with a file or a prompt at the border.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no sense by itself or beside another one.
    #[error("{0}")]
    Setting(String),

    /// A prompt, or a word that was looked for in one.
    #[error("prompt {prompt:?}: {reason}")]
    Prompt {
        /// The prompt as it was given.
        prompt: String,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// A picture that cannot be read, written or used.
    #[error("picture {}: {reason}", file.display())]
    Picture {
        /// The picture's file.
        file: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// A configuration or tokenizer file of a model.
    #[error("{}: {reason}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The field or line at fault and what to do.
        reason: String,
    },

    /// A checkpoint, or one tensor in it.
    #[error("weights {}: {reason}", file.display())]
    Weights {
        /// The checkpoint's file.
        file: PathBuf,
        /// The tensor at fault and what to do.
        reason: String,
    },

    /// An adapter file, or one tensor in it.
    #[error("adapter {}: {reason}", file.display())]
    Adapter {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor at fault and what to do.
        reason: String,
    },

    /// Weights that could not be fetched from the hub.
    #[error("hub {what}: {reason}")]
    Hub {
        /// Repository and file.
        what: String,
        /// What went wrong and what to do.
        reason: String,
    },

    /// The operating system refused.
    #[error("{}: {reason}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },

    /// A network's output is useless.
    #[error("{0}")]
    Numbers(String),

    /// A tensor operation failed: shapes, memory or the device.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// A setting that makes no sense.
    pub fn setting(reason: impl Into<String>) -> Self {
        Self::Setting(reason.into())
    }

    /// A fault of `prompt`.
    pub fn prompt(prompt: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Prompt {
            prompt: prompt.into(),
            reason: reason.into(),
        }
    }

    /// A fault of the picture in `file`.
    pub fn picture(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Picture {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// A fault of the configuration in `file`.
    pub fn config(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Config {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// A fault of the checkpoint in `file`.
    pub fn weights(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Weights {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// A fault of the adapter in `file`.
    pub fn adapter(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Adapter {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// The system's refusal to touch `file`.
    pub fn io(file: impl AsRef<Path>, reason: io::Error) -> Self {
        Self::Io {
            file: file.as_ref().into(),
            reason,
        }
    }
}
