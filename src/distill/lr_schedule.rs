//! The learning rate schedule.

use std::f64::consts::PI;

/// A learning rate with linear warm-up, then constant or with cosine decay to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSchedule {
    /// Peak learning rate.
    pub peak: f64,
    /// Number of warm-up steps.
    pub warmup: usize,
    /// The step at which the cosine decay ends; constant if `None`.
    pub end: Option<usize>,
}

impl LrSchedule {
    /// The learning rate of a step, numbered from 0.
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
        let rate = LrSchedule {
            peak: 2.0,
            warmup: 4,
            end: Some(104),
        };
        assert_eq!((rate.at(0), rate.at(3), rate.at(4)), (0.5, 2.0, 2.0));
        assert!((rate.at(54) - 1.0).abs() < 1e-12);
        assert!(rate.at(104) < 1e-12 && rate.at(1000) < 1e-12);
        let held = LrSchedule { end: None, ..rate };
        assert_eq!(held.at(12345), 2.0);
    }
}
