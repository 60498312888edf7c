//! Layers shared by several networks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
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

impl SharedLayers {
    /// Forgets all layers; those of networks stay as long as these.
    pub fn clear(&self) {
        self.linears.clear();
        self.convs.clear();
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.linears.is_empty() && self.convs.is_empty()
    }
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
    fn locked(&self) -> MutexGuard<'_, HashMap<String, L>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self) {
        self.locked().clear();
    }

    fn is_empty(&self) -> bool {
        self.locked().is_empty()
    }

    /// Returns the layer at `path`, read on first use. Reading does not hold the lock: two
    /// threads never read the same layer of one network.
    pub(super) fn get(&self, path: &str, read: impl FnOnce() -> Result<L>) -> Result<L> {
        if let Some(layer) = self.locked().get(path) {
            return Ok(layer.clone());
        }
        let layer = read()?;
        self.locked().insert(path.into(), layer.clone());
        Ok(layer)
    }
}
