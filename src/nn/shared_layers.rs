//! Layers shared by several networks.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{Conv2d, Linear};
use crate::error::Result;

/// The frozen layers of one checkpoint by their paths. Networks that share them need
/// memory only for their norms and LoRA branches.
#[derive(Debug, Default)]
pub struct SharedLayers {
    linears: Mutex<HashMap<String, Linear>>,
    convs: Mutex<HashMap<String, Conv2d>>,
}

impl SharedLayers {
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

/// Returns the layer at `path`, read on first use. Reading does not hold the lock: two
/// threads never read the same layer of one network.
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
