//! What a walk tells the world: for progress bars, dumps and counts.

use candle_core::Tensor;

/// Something that happened on the way.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'a> {
    /// Something slow begins.
    Begins(&'static str),
    /// The network was evaluated once.
    Evaluated {
        /// Index of the step, from 0.
        step: usize,
        /// Number of steps of the walk.
        of: usize,
        /// Rows that were evaluated together.
        rows: usize,
    },
    /// A value, under the name that dumps give it.
    Value(&'a str, &'a Tensor),
}

/// Sees every [`Moment`].
pub type Watch<'a> = dyn FnMut(Moment) + 'a;
