//! Whether an edit is right.

use super::{Attribute, Change, Pair, fitted, nearest, psnr};
use crate::picture::Picture;

/// How an edit turned out, of which the true result is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What the edit was to change.
    pub change: Change,
    /// Whether the picture shows it; of a thing that was added its colour and its shape, too.
    pub is_right: bool,
    /// Whether the thing that was changed is still where it was; none where no thing was.
    pub place_kept: Option<bool>,
    /// PSNR in dB over the pixels that should not change, others not counted.
    pub unchanged: Option<f64>,
}

impl Verdict {
    /// The verdict on a picture of [`SIDE`](super::SIDE) pixels.
    pub fn of(pair: &Pair, picture: &Picture) -> Self {
        let before = pair.source.render();
        let truth = match pair.change {
            Change::Add => fitted(picture, &pair.target, pair.thing..pair.thing + 1),
            _ => pair.target.clone(),
        };
        let changes = Pair::mask(&before, &truth.render());
        let is = |attribute: Attribute| {
            let candidates = attribute.candidates(&truth, pair.thing);
            candidates[nearest(picture, &candidates)] == truth
        };
        let is_there = || nearest(picture, &[pair.source.clone(), truth.clone()]) == 1;
        let is_right = match pair.change {
            Change::Of(attribute) => is(attribute),
            Change::Remove => is_there(),
            Change::Add => is_there() && is(Attribute::Colour) && is(Attribute::Shape),
        };
        let is_of_a_thing = matches!(
            pair.change,
            Change::Of(attribute) if Attribute::OF_THINGS.contains(&attribute)
        );
        Self {
            change: pair.change,
            is_right,
            place_kept: is_of_a_thing.then(|| is(Attribute::Place)),
            unchanged: psnr(&before, picture, |pixel| !changes[pixel]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_pictures_are_judged_right_and_sources_wrong() {
        for index in 0..80 {
            let pair = Pair::numbered(Pair::SEED, index);
            let truth = Verdict::of(&pair, &pair.target.render());
            assert!(
                truth.is_right && truth.place_kept != Some(false),
                "pair {index}"
            );
            assert!(
                truth.unchanged.is_none_or(|psnr| psnr > 60.0),
                "pair {index}"
            );
            assert!(
                !Verdict::of(&pair, &pair.source.render()).is_right,
                "pair {index}"
            );
        }
    }
}
