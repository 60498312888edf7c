//! The error type of the library, with one variant per cause.
//!
//! Every message names the file, tensor, word or setting at fault and, if
//! possible, a remedy. Most failures inside [`nn`](crate::nn) and
//! [`model`](crate::model) are tensor errors; their callers add the file or
//! the prompt.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// The result type of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A setting of the library. User interfaces replace it with the name they use, such as
/// a command-line flag or a key of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// Alpha of adapters whose files do not state it.
    AdapterAlpha,
    /// Adapters to merge.
    Adapters,
    /// The words that local blend restricts the edit to.
    Blend,
    /// The timesteps of inversions.
    ForwardTimesteps,
    /// The guidance strength.
    Guidance,
    /// The naming scheme of an adapter's tensors.
    Naming,
    /// The timesteps of edits and generations.
    ReverseTimesteps,
    /// The size of pictures.
    Size,
    /// The choice between a preset's adapter pairs.
    Variant,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdapterAlpha => "adapter alpha",
            Self::Adapters => "adapter",
            Self::Blend => "blend",
            Self::ForwardTimesteps => "forward timesteps",
            Self::Guidance => "guidance",
            Self::Naming => "naming",
            Self::ReverseTimesteps => "reverse timesteps",
            Self::Size => "size",
            Self::Variant => "variant",
        })
    }
}

/// Everything that can go wrong, by cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that is invalid by itself or in combination with another one.
    #[error("{}{reason}", setting.map(|setting| format!("{setting}: ")).unwrap_or_default())]
    Setting {
        /// The setting, if user interfaces may have another name for it.
        setting: Option<Setting>,
        /// The reason and, if possible, a remedy.
        reason: String,
    },

    /// A prompt, or a word that was searched in one.
    #[error("prompt {prompt:?}: {reason}")]
    Prompt {
        /// The prompt as given.
        prompt: String,
        /// The reason and, if possible, a remedy.
        reason: String,
    },

    /// A picture that cannot be read, written or used.
    #[error("picture {}: {reason}", file.display())]
    Picture {
        /// The picture's file.
        file: PathBuf,
        /// The reason and, if possible, a remedy.
        reason: String,
    },

    /// A configuration or tokenizer file of a model.
    #[error("{}: {reason}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The field or line at fault and a remedy.
        reason: String,
    },

    /// A checkpoint, or one tensor in it.
    #[error("weights {}: {reason}", file.display())]
    Weights {
        /// The checkpoint's file.
        file: PathBuf,
        /// The tensor at fault and a remedy.
        reason: String,
    },

    /// An adapter file, or one tensor in it.
    #[error("adapter {}: {reason}", file.display())]
    Adapter {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor at fault and a remedy.
        reason: String,
    },

    /// Files that could not be downloaded from the hub.
    #[error("hub {what}: {reason}")]
    Hub {
        /// Repository and file.
        what: String,
        /// The reason and, if possible, a remedy.
        reason: String,
    },

    /// An error of the operating system.
    #[error("{}: {reason}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },

    /// A network's output is not finite.
    #[error("{0}")]
    Numbers(String),

    /// A tensor operation failed: shapes, memory or the device.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An invalid setting.
    pub fn setting(reason: impl Into<String>) -> Self {
        Self::Setting {
            setting: None,
            reason: reason.into(),
        }
    }

    /// An invalid value of the named setting.
    pub fn of(setting: Setting, reason: impl Into<String>) -> Self {
        Self::Setting {
            setting: Some(setting),
            reason: reason.into(),
        }
    }

    /// A failed request for a repository or file of the hub.
    pub fn hub(what: impl ToString, reason: impl Into<String>) -> Self {
        Self::Hub {
            what: what.to_string(),
            reason: reason.into(),
        }
    }

    /// An invalid `prompt`, or a word that is missing in it.
    pub fn prompt(prompt: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Prompt {
            prompt: prompt.into(),
            reason: reason.into(),
        }
    }

    /// An error in the picture `file`.
    pub fn picture(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Picture {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// An error in the configuration `file`.
    pub fn config(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Config {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// An error in the checkpoint `file`.
    pub fn weights(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Weights {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// An error in the adapter `file`.
    pub fn adapter(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Adapter {
            file: file.as_ref().into(),
            reason: reason.to_string(),
        }
    }

    /// An error of the operating system on `file`.
    pub fn io(file: impl AsRef<Path>, reason: io::Error) -> Self {
        Self::Io {
            file: file.as_ref().into(),
            reason,
        }
    }
}
