//! In place of object stores, in a program that was built without them.

use std::path::Path;

use icd::{Error, batch::Storage};

/// Tells how to build a program that knows them.
pub(crate) fn storage(file: &Path) -> Result<&'static dyn Storage, Error> {
    Err(Error::setting(format!(
        "{}: this icd was built without object stores: cargo install --path . --features cloud",
        file.display()
    )))
}

/// There is nothing to tell.
pub(crate) fn tell_with(_: impl Fn(&str) + Send + Sync + 'static) {}
