//! Where files lie: on this machine or, for URLs, in an object store.

#[cfg(not(feature = "cloud"))]
#[path = "storage/absent.rs"]
mod cloud;
#[cfg(feature = "cloud")]
mod cloud;

use std::path::Path;

use icd::{
    Error,
    batch::{Disk, Storage},
};

pub(crate) use cloud::tell_with;

/// The schemes of URLs: Amazon S3 and all that speaks its protocol, Google and Azure.
const SCHEMES: [&str; 3] = ["s3", "gs", "az"];

/// The storage of a file or folder.
pub(crate) fn of(file: &Path) -> Result<&'static dyn Storage, Error> {
    match is_url(file) {
        true => cloud::storage(file),
        false => Ok(&Disk),
    }
}

/// The content of a file, at most 1 GiB.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Error> {
    of(file)?.read(file)
}

/// Whether a name is the URL of an object: on this machine it is written `./s3://..`.
pub(crate) fn is_url(file: &Path) -> bool {
    let text = file.to_string_lossy();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| SCHEMES.contains(&scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for url in ["s3://bucket/a.png", "gs://b", "az://box/deep/a.png"] {
            assert!(is_url(url.as_ref()), "{url}");
        }
        for path in ["a.png", "./s3://bucket/a.png", "s3:/b", "S3", "c:\\s3", ""] {
            assert!(!is_url(path.as_ref()), "{path}");
        }
    }
}
