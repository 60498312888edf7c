//! The error type of the library, with one variant per cause.
//!
//! Every message names the file, tensor, word or setting at fault and, if
//! possible, a remedy. Most failures inside [`nn`](crate::nn) and
//! [`model`](crate::model) are tensor errors; their callers add the file or
//! the prompt.

mod operation;

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
};

use operation::is_out_of_memory;
pub use operation::reason_of;

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
    /// The words whose attention masks MasaCtrl.
    MasactrlMask,
    /// The step and the layer where MasaCtrl begins.
    MasactrlStart,
    /// How pictures are carried into noise and back.
    Method,
    /// The naming scheme of an adapter's tensors.
    Naming,
    /// The prompt that guidance leads away from.
    NegativePrompt,
    /// The timesteps of edits and generations.
    ReverseTimesteps,
    /// The size of pictures.
    Size,
    /// The number of DDIM steps.
    Steps,
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
            Self::MasactrlMask => "masactrl mask",
            Self::MasactrlStart => "masactrl start",
            Self::Method => "method",
            Self::Naming => "naming",
            Self::NegativePrompt => "negative prompt",
            Self::ReverseTimesteps => "reverse timesteps",
            Self::Size => "size",
            Self::Steps => "steps",
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
    #[error("{}{what}: {reason}", if what.contains("://") { "" } else { "hub " })]
    Hub {
        /// Repository and file, or an address.
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

    /// An accelerator has no memory left for an operation.
    /// Smaller pictures, fewer rows at once, one network at a time and half precision need less.
    #[error("the GPU is out of memory{}", memory.map(told).unwrap_or_default())]
    OutOfMemory {
        /// The memory of the device, if it tells.
        memory: Option<DeviceMemory>,
    },

    /// A tensor operation failed: shapes or the device.
    #[error("{}", reason_of(.0))]
    Tensor(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        match is_out_of_memory(&error) {
            true => Self::OutOfMemory { memory: None },
            false => Self::Tensor(error),
        }
    }
}

/// The memory of an accelerator, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What no program holds.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// How much memory is free, in brackets.
fn told(memory: DeviceMemory) -> String {
    let [free, total] = [memory.free, memory.total].map(|bytes| bytes as f64 / f64::from(1 << 30));
    format!(" ({free:.1} of {total:.1} GiB are free)")
}

/// Most bytes of the reason of an error: it may quote what a stranger wrote.
const MAX_REASON: usize = 1000;

/// A text of at most about `most` bytes: of a longer one the beginning and the end, with
/// `… (N more bytes) …` between them.
pub fn abridged(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let starts = || text.char_indices().map(|(at, _)| at);
    let (head, tail) = (most - most / 4, text.len() - most / 4);
    let head = starts().take_while(|at| *at <= head).last().unwrap_or(0);
    let tail = starts().find(|at| *at >= tail).unwrap_or(text.len());
    let (begin, end, left_out) = (&text[..head], &text[tail..], tail - head);
    format!("{begin}… ({left_out} more bytes) …{end}").into()
}

/// The reason of an error.
fn reason(text: impl ToString) -> String {
    abridged(&text.to_string(), MAX_REASON).into_owned()
}

impl Error {
    /// An invalid setting.
    pub fn setting(text: impl Into<String>) -> Self {
        Self::Setting {
            setting: None,
            reason: reason(text.into()),
        }
    }

    /// An invalid value of the named setting.
    pub fn of(setting: Setting, text: impl Into<String>) -> Self {
        Self::Setting {
            setting: Some(setting),
            reason: reason(text.into()),
        }
    }

    /// A failed request for a repository or file of the hub.
    pub fn hub(what: impl ToString, text: impl Into<String>) -> Self {
        Self::Hub {
            what: what.to_string(),
            reason: reason(text.into()),
        }
    }

    /// An invalid `prompt`, or a word that is missing in it.
    pub fn prompt(prompt: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Prompt {
            prompt: prompt.into(),
            reason: reason(text.into()),
        }
    }

    /// An error in the picture `file`.
    pub fn picture(file: impl AsRef<Path>, text: impl ToString) -> Self {
        Self::Picture {
            file: file.as_ref().into(),
            reason: reason(text),
        }
    }

    /// An error in the configuration `file`.
    pub fn config(file: impl AsRef<Path>, text: impl ToString) -> Self {
        Self::Config {
            file: file.as_ref().into(),
            reason: reason(text),
        }
    }

    /// An error in the checkpoint `file`.
    pub fn weights(file: impl AsRef<Path>, text: impl ToString) -> Self {
        Self::Weights {
            file: file.as_ref().into(),
            reason: reason(text),
        }
    }

    /// An error in the adapter `file`.
    pub fn adapter(file: impl AsRef<Path>, text: impl ToString) -> Self {
        Self::Adapter {
            file: file.as_ref().into(),
            reason: reason(text),
        }
    }

    /// The error of a failed tensor operation: `fault` of its reason, unless the device is out of
    /// memory, which is nobody's fault.
    pub(crate) fn of_operation(
        error: candle_core::Error,
        fault: impl FnOnce(&str) -> Self,
    ) -> Self {
        match Self::from(error) {
            Self::Tensor(error) => fault(&reason_of(&error)),
            other => other,
        }
    }

    /// The same, with the memory of the device if it is out of memory.
    pub(crate) fn with_memory(self, memory: impl FnOnce() -> Option<DeviceMemory>) -> Self {
        match self {
            Self::OutOfMemory { memory: None } => Self::OutOfMemory { memory: memory() },
            other => other,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_missing_is_told_in_numbers() {
        let reason = candle_core::Error::Cuda("CUDA_ERROR_OUT_OF_MEMORY".into());
        let error = Error::from(reason.context("a product"));
        assert_eq!(error.to_string(), "the GPU is out of memory");
        let (free, total) = (1 << 28, 24 << 30);
        let error = error.with_memory(|| Some(DeviceMemory { free, total }));
        let error = error.with_memory(|| unreachable!("it is known"));
        let told = "the GPU is out of memory (0.2 of 24.0 GiB are free)";
        assert_eq!(error.to_string(), told);
        let other = Error::from(candle_core::Error::Cuda("CUDA_ERROR_NO_DEVICE".into()));
        assert!(matches!(other, Error::Tensor(_)));
    }

    #[test]
    fn a_long_text_keeps_both_ends() {
        assert_eq!(abridged("a bird", 8), "a bird");
        let text = format!("begin{}end", "x".repeat(100));
        assert_eq!(abridged(&text, 12), "beginxxxx… (96 more bytes) …end");
        assert_eq!(abridged("鳥鳥鳥鳥鳥鳥", 8), "鳥鳥… (12 more bytes) …");
        let name = "n".repeat(5_000_000);
        let error = Error::weights("a.pt", format!("tensor {name:?}: it is missing"));
        let error = error.to_string();
        assert!(error.starts_with("weights a.pt: tensor") && error.len() < 1100);
        assert!(error.ends_with("it is missing") && error.contains(" more bytes)"));
    }
}
