//! What an adapter file is, in short.

use std::collections::BTreeSet;

use super::{
    factor::Factor,
    layers::{Form, RANKS, form},
};
use crate::io::Checkpoint;

/// The kinds of an adapter file's layers, as people call them, and their ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// `LoRA`, `LoHa`, `LoKr`; `DoRA` beside them if there are magnitudes.
    pub kinds: Vec<&'static str>,
    /// The ranks that the tensors show, in ascending order.
    pub ranks: Vec<usize>,
}

impl Summary {
    /// The summary of a file by the names and shapes of its tensors; `None` if it is no
    /// adapter of a kind that is read.
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let (mut kinds, mut ranks) = (BTreeSet::new(), BTreeSet::new());
        for name in checkpoint.names() {
            let Some((_, factor)) = Factor::of(&name) else {
                continue;
            };
            kinds.extend(kind(factor));
            if RANKS.contains(&factor) {
                ranks.extend(
                    checkpoint
                        .shape(&name)
                        .and_then(|shape| shape.first().copied()),
                );
            }
        }
        (!kinds.is_empty()).then(|| Self {
            kinds: kinds.into_iter().collect(),
            ranks: ranks.into_iter().collect(),
        })
    }
}

fn kind(factor: Factor) -> Option<&'static str> {
    match factor {
        Factor::Magnitude | Factor::DoraScale => Some("DoRA"),
        factor => form(factor).map(Form::name),
    }
}
