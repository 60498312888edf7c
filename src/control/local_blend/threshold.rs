//! How much of the picture a local blend lets change.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// A place may change where what tells of the edit exceeds this fraction of its maximum there,
/// from 0 to below 1, or beside such a place. A smaller one lets more change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlendThreshold(pub(super) f64);

impl BlendThreshold {
    /// That of maps of words, as in the code of prompt-to-prompt.
    pub const WORDS: Self = Self(0.3);
    /// That of differences. On edits of the bundled world 0.25 keeps most, and leaves traces
    /// where a thing was, its shadow and reflection.
    pub const DIFFERENCE: Self = Self(0.15);
}

impl fmt::Display for BlendThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BlendThreshold {
    type Err = Error;

    /// Parses a number from 0 to below 1.
    fn from_str(text: &str) -> Result<Self> {
        let value = text.parse().ok().filter(|value| (0.0..1.0).contains(value));
        let reason = || format!("{text:?}: write a fraction from 0 to below 1, such as 0.2");
        value.map(Self).ok_or_else(|| Error::setting(reason()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_fraction_below_one() {
        for text in ["0", "0.15", "0.999"] {
            assert_eq!(text.parse::<BlendThreshold>().unwrap().to_string(), text);
        }
        for text in ["1", "-0.1", "nan", "inf", "a", ""] {
            assert!(text.parse::<BlendThreshold>().is_err(), "{text:?}");
        }
    }
}
