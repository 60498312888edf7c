//! Layers that several networks share.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{Conv2d, Linear};
use crate::error::Result;

/// The frozen layers of one checkpoint by their paths. A network that takes
/// them from here costs no memory of its own but its norms and its changes.
#[derive(Debug, Default)]
pub struct Shelf {
    linears: Mutex<HashMap<String, Linear>>,
    convs: Mutex<HashMap<String, Conv2d>>,
}

impl Shelf {
    pub(super) fn linear(
        &self,
        path: &str,
        read: impl FnOnce() -> Result<Linear>,
    ) -> Result<Linear> {
        taken(&self.linears, path, read)
    }

    pub(super) fn conv(&self, path: &str, read: impl FnOnce() -> Result<Conv2d>) -> Result<Conv2d> {
        taken(&self.convs, path, read)
    }
}

/// The layer at `path`, read where it is not there yet. Reading happens without
/// the lock: two threads never read the same layer of one network.
fn taken<T: Clone>(
    layers: &Mutex<HashMap<String, T>>,
    path: &str,
    read: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let locked = || layers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(layer) = locked().get(path) {
        return Ok(layer.clone());
    }
    let layer = read()?;
    locked().insert(path.into(), layer.clone());
    Ok(layer)
}
