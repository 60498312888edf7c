//! Ends of the program with an exit code of their own.

use std::{fmt, io, path::Path};

use icd::{Error, io::resolved};

/// Why the program ends, and with which code.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Some of many jobs failed, as this says; or they are told already.
    JobsFailed(Option<String>),
    /// The machine failed: another try, or another machine, may do what this one could not.
    Machine,
}

impl Exit {
    /// The exit code; that of the machine is EX_TEMPFAIL of sysexits.h, on which engines can
    /// decide to try again.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::JobsFailed(_) => 1,
            Self::Machine => 75,
        }
    }

    /// Whether nothing is left to say.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self, Self::JobsFailed(None))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobsFailed(told) => f.write_str(told.as_deref().unwrap_or_default()),
            Self::Machine => f.write_str(
                "the machine failed, not the jobs: the same command goes on where this one stopped",
            ),
        }
    }
}

impl std::error::Error for Exit {}

/// Whether the machine is at fault rather than the job: memory, the accelerator or the network,
/// or the disk of the results.
pub(crate) fn is_of_machine(error: &anyhow::Error, results: &Path) -> bool {
    let results = resolved(results);
    error.chain().any(|cause| match cause.downcast_ref() {
        Some(Error::Io { file, reason }) => is_disk(file, reason, &results),
        Some(Error::OutOfMemory { .. }) => true,
        Some(Error::Tensor(error)) => is_device(error),
        Some(_) => false,
        None => cause.downcast_ref().is_some_and(is_device),
    })
}

/// Whether the network failed, wherever the file lies.
pub(crate) fn is_of_network(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().map(<dyn std::error::Error>::downcast_ref);
    causes.any(|cause| {
        matches!(cause, Some(Error::Io { reason, .. }) if reason.kind() == io::ErrorKind::NetworkDown)
    })
}

/// Names that a file system cannot give or does not allow are the job's fault, all else is the
/// disk's.
fn is_disk(file: &Path, reason: &io::Error, results: &Path) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NetworkDown, NotADirectory,
        OutOfMemory, PermissionDenied,
    };
    let of_name = [
        AlreadyExists,
        InvalidFilename,
        InvalidInput,
        IsADirectory,
        NotADirectory,
        PermissionDenied, // a folder below that of the results
    ];
    let is_result = resolved(file).starts_with(results);
    [NetworkDown, OutOfMemory].contains(&reason.kind())
        || is_result && !of_name.contains(&reason.kind())
}

/// Whether an accelerator failed: it is out of memory, or lost.
fn is_device(error: &candle_core::Error) -> bool {
    use candle_core::Error::{Context, Cuda, Metal, WithBacktrace, WithPath};
    match error {
        WithBacktrace { inner, .. } | WithPath { inner, .. } | Context { inner, .. } => {
            is_device(inner)
        }
        Cuda(_) | Metal(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(file: &Path, kind: io::ErrorKind) -> anyhow::Error {
        anyhow::Error::from(Error::io(file, kind.into())).context("writing")
    }

    #[test]
    fn disks_and_devices_are_the_machine_and_names_are_the_job() {
        let home = tempfile::tempdir().unwrap();
        let (inside, outside) = (home.path().join("a.png"), Path::new("in.png"));
        let is = |error: &anyhow::Error| is_of_machine(error, home.path());
        assert!(is(&Error::OutOfMemory { memory: None }.into()));
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge] {
            assert!(is(&io_error(&inside, kind)));
            assert!(!is(&io_error(outside, kind)), "an input that is too large");
        }
        assert!(!is(&io_error(&inside, io::ErrorKind::AlreadyExists)));
        assert!(is(&io_error(outside, io::ErrorKind::OutOfMemory)));
        assert!(is(&io_error(outside, io::ErrorKind::NetworkDown)));
        let lost = candle_core::Error::Metal(candle_core::MetalError::from("lost".to_owned()));
        assert!(is(&Error::from(lost.context("a layer")).into()));
        assert!(!is(&Error::setting("x").into()));
    }
}
