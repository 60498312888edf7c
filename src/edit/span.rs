//! Parts of a walk, as shares of its steps.

use std::{ops::Range, str::FromStr};

use crate::error::{Error, Result};

/// A part of the walk: shares of its steps, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    start: f64,
    end: f64,
}

impl Span {
    /// When cross-attention is the source's where nothing is asked for.
    pub const CROSS: Self = Self {
        start: 0.0,
        end: 0.3,
    };
    /// When self-attention is the source's where nothing is asked for.
    pub const ITSELF: Self = Self {
        start: 0.0,
        end: 0.6,
    };

    /// From the first step on.
    pub fn until(end: f64) -> Result<Self> {
        Self::new(0.0, end)
    }

    /// From one share to another.
    pub fn new(start: f64, end: f64) -> Result<Self> {
        match (0.0..=1.0).contains(&end) && (0.0..=end).contains(&start) {
            true => Ok(Self { start, end }),
            false => Err(Error::setting(format!(
                "{start}..{end}: a share of the steps lies in 0..1"
            ))),
        }
    }

    /// The steps it covers where a whole walk has `steps`.
    pub(super) fn of(self, steps: usize) -> Range<usize> {
        let step = |share: f64| (share * steps as f64) as usize;
        step(self.start)..step(self.end)
    }
}

impl FromStr for Span {
    type Err = Error;

    /// Reads `0.4` or `0.2..0.6`.
    fn from_str(text: &str) -> Result<Self> {
        let number = |s: &str| {
            let fault =
                |_| Error::setting(format!("{text:?}: write a share such as 0.4, or 0.2..0.6"));
            s.trim().parse::<f64>().map_err(fault)
        };
        match text.split_once("..") {
            Some((start, end)) => Self::new(number(start)?, number(end)?),
            None => Self::until(number(text)?),
        }
    }
}

/// The steps in which cross-attention is edited.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// For all words.
    pub default: Span,
    /// For words of the target with bounds of their own.
    pub words: Vec<(String, Span)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_down_to_steps_as_in_the_reference() {
        let steps = |end, steps| Span::until(end).unwrap().of(steps).end;
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
        assert_eq!("0.2..0.6".parse::<Span>().unwrap().of(5), 1..3);
    }

    #[test]
    fn impossible_shares_are_refused() {
        for text in ["", "x", "1.5", "-0.2", "0.6..0.2", "NaN", "0.1..nan"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
