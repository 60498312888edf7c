//! Parsers for the values of flags.

use std::{
    hash::{BuildHasher, RandomState},
    str::FromStr,
};

use icd::{
    Error,
    control::{Amplify, Blend, StepRange},
    picture::{Size, fit::workable},
};

use crate::cli::Console;

/// Parses `--cross-replace 0.3` for all words and `--cross-replace bird=0.8` for one.
pub(crate) fn cross_replace(text: &str) -> Result<(Option<String>, StepRange), Error> {
    match text.rsplit_once('=') {
        Some((word, range)) => Ok((Some(word.into()), range.parse()?)),
        None => Ok((None, text.parse()?)),
    }
}

/// Parses `--amplify auto`, `--amplify none` and `--amplify word=4`.
pub(crate) fn amplify(text: &str) -> Result<Option<Amplify>, Error> {
    let word = || {
        let (word, factor) = text.rsplit_once('=')?;
        let factor = factor.trim().parse().ok();
        let factor = factor.filter(|factor: &f64| (*factor as f32).is_finite());
        Some(Amplify::Word(word.to_owned(), factor?))
    };
    match text {
        "auto" => Ok(Some(Amplify::Auto)),
        "none" => Ok(None),
        _ => word().map(Some).ok_or_else(|| {
            Error::setting(format!(
                "{text:?}: write auto, none, or a word and a factor as in bird=4"
            ))
        }),
    }
}

/// Parses `--blend difference`, `--blend auto`, `--blend bird:lego`, and `--blend none`, which is
/// `None`.
pub(crate) fn blend(text: &str) -> Result<Option<Blend>, Error> {
    match text {
        "none" => Ok(None),
        "difference" => Ok(Some(Blend::Difference)),
        _ => words(text, "difference, auto, none").map(Some),
    }
}

/// Parses `--masactrl-mask auto` and `--masactrl-mask bird:lego`.
pub(crate) fn masactrl_mask(text: &str) -> Result<Blend, Error> {
    words(text, "auto")
}

/// `auto`, or a pair of words; an error tells what `others` may be written as well.
fn words(text: &str, others: &str) -> Result<Blend, Error> {
    let reason = |_| {
        Error::setting(format!(
            "{text:?}: write {others}, or a source word and a target word as in bird:lego"
        ))
    };
    match text {
        "auto" => Ok(Blend::Auto),
        _ => text.parse().map(Blend::Pair).map_err(reason),
    }
}

/// `--early-prompt source`, `--early-prompt target`, or a prompt of its own.
#[derive(Clone, Debug)]
pub(crate) enum EarlyPrompt {
    Source,
    Target,
    Text(String),
}

impl FromStr for EarlyPrompt {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "source" => Self::Source,
            "target" => Self::Target,
            text => Self::Text(text.into()),
        })
    }
}

/// `--seed N`, or `--seed random`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seed {
    Given(u64),
    Random,
}

impl Seed {
    /// The seed; a random one is drawn now, and told.
    pub(crate) fn told(self, console: &Console) -> u64 {
        let seed = self.drawn();
        if matches!(self, Self::Random) {
            console.note(&format!("seed: {seed}"));
        }
        seed
    }

    /// This seed, or one that is drawn now; and whether it was.
    pub(crate) fn settled(self) -> (Self, bool) {
        (Self::Given(self.drawn()), matches!(self, Self::Random))
    }

    /// A random seed is of 32 bits, which are typed more easily than 64.
    pub(crate) fn drawn(self) -> u64 {
        match self {
            Self::Given(seed) => seed,
            // The keys of each state are random.
            Self::Random => RandomState::new().hash_one(()) >> 32,
        }
    }
}

impl FromStr for Seed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reason = || format!("write a number from 0 to {}, or random", u64::MAX);
        match text {
            "random" => Ok(Self::Random),
            number => number
                .parse()
                .map(Self::Given)
                .map_err(|_| Error::setting(reason())),
        }
    }
}

/// Parses `--size 512` (a square) and `--size 768x512` (width x height).
pub(crate) fn size(text: &str) -> Result<Size, Error> {
    let (width, height) = text.split_once(['x', 'X']).unwrap_or((text, text));
    let length = |text: &str| text.trim().parse().ok();
    let size = length(width).zip(length(height));
    let reason = || {
        format!(
            "{text:?}: write a side as in 512, or width x height as in 768x512, \
                              in multiples of 8"
        )
    };
    let (width, height) = size.ok_or_else(|| Error::setting(reason()))?;
    // clap names the flag.
    workable(Size::new(width, height)).map_err(|error| match error {
        Error::Setting { reason, .. } => Error::setting(reason),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_multiples_of_eight() {
        assert_eq!(size("512").unwrap(), Size::new(512, 512));
        assert_eq!(size("312x200").unwrap(), Size::new(312, 200));
        for bad in [
            "",
            "0",
            "7",
            "513",
            "512x",
            "x512",
            "8200",
            "512x512x512",
            "-8",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_seeds_are_drawn_anew() {
        let drawn = |text: &str| text.parse::<Seed>().map(Seed::drawn);
        assert_eq!(drawn("18446744073709551615").unwrap(), u64::MAX);
        let seeds: Vec<_> = (0..8).map(|_| drawn("random").unwrap()).collect();
        assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
        for bad in ["", "-1", "1.5", "Random", "18446744073709551616"] {
            assert!(drawn(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_may_hold_signs() {
        let twice = Amplify::Word("a=b".into(), 2.0);
        assert_eq!(amplify("a=b=2").unwrap(), Some(twice));
        assert_eq!(cross_replace("bird=0.8").unwrap().0, Some("bird".into()));
        for bad in [
            "bird",
            "bird=",
            "bird=x",
            "bird=nan",
            "bird=inf",
            "bird=1e39",
        ] {
            assert!(amplify(bad).is_err(), "{bad:?}");
        }
        assert_eq!(blend("none").unwrap(), None);
        assert_eq!(blend("difference").unwrap(), Some(Blend::Difference));
        for bad in ["bird", ":", "bird:", ":lego"] {
            assert!(blend(bad).is_err(), "{bad:?}");
            assert!(masactrl_mask(bad).is_err(), "{bad:?}");
        }
    }
}
