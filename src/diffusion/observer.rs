//! Events of a running pipeline, for progress bars, dumps and counts.

use candle_core::Tensor;

/// An event of a running pipeline.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A slow operation begins.
    Begins(&'static str),
    /// The following events belong to the picture of this index, from 0; events before
    /// the first of these belong to all pictures.
    Picture(usize),
    /// The network was evaluated once.
    Evaluated {
        /// Index of the step, from 0.
        step: usize,
        /// Number of steps of the sampling loop.
        of: usize,
        /// Number of rows in the batch.
        rows: usize,
    },
    /// An intermediate value, under its name in dumps.
    Value(&'a str, &'a Tensor),
}

/// Receives every [`Event`]. Closures are observers.
pub trait Observer {
    /// Receives an event.
    fn observe(&mut self, event: Event);

    /// Whether values are of use: those of many rows are otherwise not put together.
    fn wants_values(&self) -> bool {
        true
    }
}

impl<F: FnMut(Event)> Observer for F {
    fn observe(&mut self, event: Event) {
        self(event);
    }
}

/// An observer that ignores all events.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&mut self, _: Event) {}

    fn wants_values(&self) -> bool {
        false
    }
}

/// Forwards events with a prefix before the names of values, so that the values of two
/// sampling loops in one run have distinct names.
pub struct Scoped<'a> {
    /// The prefix of each name.
    pub prefix: &'static str,
    /// The receiver of the events.
    pub observer: &'a mut dyn Observer,
}

impl Observer for Scoped<'_> {
    fn observe(&mut self, event: Event) {
        match event {
            Event::Value(name, value) => {
                let name = format!("{}{name}", self.prefix);
                self.observer.observe(Event::Value(&name, value));
            }
            other => self.observer.observe(other),
        }
    }

    fn wants_values(&self) -> bool {
        self.observer.wants_values()
    }
}
