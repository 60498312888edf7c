//! Ranges of steps, as fractions of their number.

use std::{fmt, ops::Range, str::FromStr};

use crate::error::{Error, Result};

/// A range of steps, as fractions of their number, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRange {
    start: f64,
    end: f64,
}

impl StepRange {
    /// The default for cross-attention.
    pub const CROSS: Self = Self {
        start: 0.0,
        end: 0.3,
    };
    /// The default for self-attention.
    pub const SELF_REPLACE: Self = Self {
        start: 0.0,
        end: 0.6,
    };

    /// From the first step to a fraction.
    pub fn until(end: f64) -> Result<Self> {
        Self::new(0.0, end)
    }

    /// From one fraction to another.
    pub fn new(start: f64, end: f64) -> Result<Self> {
        match (0.0..=1.0).contains(&end) && (0.0..=end).contains(&start) {
            true => Ok(Self { start, end }),
            false if start == 0.0 => Err(Error::setting(format!(
                "{end:?}: a fraction of the steps is from 0 to 1"
            ))),
            false => Err(Error::setting(format!(
                "{start:?}..{end:?}: fractions of the steps are from 0 to 1, the smaller one first"
            ))),
        }
    }

    /// The range in a sampling loop of `steps`.
    pub(super) fn of(self, steps: usize) -> Range<usize> {
        let step = |fraction: f64| (fraction * steps as f64) as usize;
        step(self.start)..step(self.end)
    }
}

impl fmt::Display for StepRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start > 0.0 {
            true => write!(f, "{}..{}", self.start, self.end),
            false => write!(f, "{}", self.end),
        }
    }
}

impl FromStr for StepRange {
    type Err = Error;

    /// Parses `0.4` or `0.2..0.6`.
    fn from_str(text: &str) -> Result<Self> {
        let number = |s: &str| {
            let reason = || format!("{text:?}: write a fraction such as 0.4, or 0.2..0.6");
            let number = s.trim().parse::<f64>();
            number.map_err(|_| Error::setting(reason()))
        };
        match text.split_once("..") {
            Some((start, end)) => Self::new(number(start)?, number(end)?),
            None => Self::until(number(text)?),
        }
    }
}

/// The steps in which cross-attention is edited.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossReplaceSteps {
    /// For all words.
    pub default: StepRange,
    /// For words of the target with a range of their own.
    pub words: Vec<(String, StepRange)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_down_to_steps_as_in_the_reference() {
        let steps = |end, steps| StepRange::until(end).unwrap().of(steps).end;
        assert_eq!(
            [
                steps(0.2, 5),
                steps(0.4, 5),
                steps(0.6, 5),
                steps(0.8, 5),
                steps(1.0, 5)
            ],
            [1, 2, 3, 4, 5]
        );
        assert_eq!(
            [steps(0.5, 4), steps(0.2, 4), steps(0.6, 4), steps(0.8, 4)],
            [2, 0, 2, 3]
        );
        assert_eq!("0.2..0.6".parse::<StepRange>().unwrap().of(5), 1..3);
    }

    #[test]
    fn ranges_are_written_as_they_are_read() {
        for text in ["0.4", "0.2..0.6", "1", "0"] {
            assert_eq!(text.parse::<StepRange>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn impossible_shares_are_refused() {
        for text in ["", "x", "1.5", "-0.2", "0.6..0.2", "NaN", "0.1..nan"] {
            assert!(text.parse::<StepRange>().is_err(), "{text:?}");
        }
    }
}
