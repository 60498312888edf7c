//! A list of the tensors that a network took from its file.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use crate::io::Checkpoint;

/// The names of the tensors that were taken from a file.
#[derive(Debug, Default)]
pub struct Taken(Mutex<BTreeSet<String>>);

impl Taken {
    pub(super) fn add(&self, name: String) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name);
    }

    /// The tensors of the file that were not taken, in order.
    pub fn left_in(&self, file: &Checkpoint) -> Vec<String> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = file.names();
        names.retain(|name| !taken.contains(name));
        names
    }
}
