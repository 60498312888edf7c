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
    pub(super) linears: Shared<Linear>,
    pub(super) convs: Shared<Conv2d>,
}

/// Layers of one kind.
#[derive(Debug)]
pub(super) struct Shared<L>(Mutex<HashMap<String, L>>);

impl<L> Default for Shared<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Clone> Shared<L> {
    /// Returns the layer at `path`, read on first use. Reading does not hold the lock: two
    /// threads never read the same layer of one network.
    pub(super) fn get(&self, path: &str, read: impl FnOnce() -> Result<L>) -> Result<L> {
        let locked = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = locked().get(path) {
            return Ok(layer.clone());
        }
        let layer = read()?;
        locked().insert(path.into(), layer.clone());
        Ok(layer)
    }
}
