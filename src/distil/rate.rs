//! How the learning rate runs over a training.

use std::f64::consts::PI;

/// A learning rate that warms up and stays, or falls to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The highest rate.
    pub peak: f64,
    /// Steps in which it rises linearly to the peak.
    pub warmup: usize,
    /// The step at which half a cosine has brought it to zero; it stays at the
    /// peak where there is none.
    pub end: Option<usize>,
}

impl Rate {
    /// The same rate at every step.
    pub fn constant(peak: f64) -> Self {
        Self {
            peak,
            warmup: 0,
            end: None,
        }
    }

    /// The rate of a step, counted from 0.
    pub fn at(self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let Some(end) = self.end else {
            return self.peak;
        };
        let length = end.saturating_sub(self.warmup).max(1) as f64;
        let share = ((step - self.warmup) as f64 / length).min(1.0);
        self.peak * 0.5 * (1.0 + (PI * share).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_holds_and_falls() {
        let rate = Rate {
            peak: 2.0,
            warmup: 4,
            end: Some(104),
        };
        assert_eq!((rate.at(0), rate.at(3), rate.at(4)), (0.5, 2.0, 2.0));
        assert!((rate.at(54) - 1.0).abs() < 1e-12);
        assert!(rate.at(104) < 1e-12 && rate.at(1000) < 1e-12);
        assert_eq!(Rate::constant(3.0).at(12345), 3.0);
    }
}
