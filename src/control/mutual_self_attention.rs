//! Mutual self-attention (MasaCtrl, arXiv 2304.08465): the targets see the source's features,
//! so that a thing may move or change its pose and stay the same thing.

use std::{fmt, str::FromStr};

use crate::{
    diffusion::{StepInfo, WalkControl},
    error::{Error, Result, Setting},
    model::attention::{AttentionControl, AttentionKind, Intervention, Site},
};

/// Where mutual self-attention begins. Before, each target lays out a picture of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasactrlStart {
    /// The first step, from 0.
    pub step: usize,
    /// The first self-attention layer in each step, from 0 in evaluation order.
    pub layer: usize,
}

impl MasactrlStart {
    /// The published start in proportion: layer 10 of the 16 of Stable Diffusion 1.5 (44 of
    /// SDXL's 70), and step 4 of 50; with four steps the second: 4 of 50 are part of the first.
    pub fn usual(steps: usize, layers: usize) -> Self {
        Self {
            step: (4 * steps).div_ceil(50),
            layer: (10 * layers).div_ceil(16),
        }
    }

    /// Fails if nothing comes after it in a walk of `steps` in a network of `layers`.
    pub(super) fn check(self, steps: usize, layers: usize) -> Result<()> {
        match self.step < steps && self.layer < layers {
            true => Ok(()),
            false => Err(Error::of(
                Setting::MasactrlStart,
                format!(
                    "{self}: steps are 0 to {}, layers 0 to {}",
                    steps.saturating_sub(1),
                    layers.saturating_sub(1)
                ),
            )),
        }
    }
}

impl fmt::Display for MasactrlStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.step, self.layer)
    }
}

impl FromStr for MasactrlStart {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once(':').and_then(|(step, layer)| {
            Some(Self {
                step: step.parse().ok()?,
                layer: layer.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| {
            Error::setting(format!(
                "{text:?}: a step and a layer are expected, counted from 0, as in 1:10"
            ))
        })
    }
}

/// From its start on, the queries of all rows read the self-attention keys and values of the
/// first row, the source.
#[derive(Clone, Copy, Debug)]
pub struct MutualSelfAttention {
    start: MasactrlStart,
    step: usize,
}

impl MutualSelfAttention {
    /// Creates a control for one walk.
    pub fn new(start: MasactrlStart) -> Self {
        Self { start, step: 0 }
    }
}

impl AttentionControl for MutualSelfAttention {
    fn intervention(&self, site: &Site) -> Intervention {
        let has_begun = self.step >= self.start.step && site.index >= self.start.layer;
        match site.kind {
            AttentionKind::SelfAttention if has_begun => Intervention::FirstRowsKeysValues,
            _ => Intervention::None,
        }
    }

    /// The features of the source are the same whatever the text.
    fn unconditional_intervention(&self, site: &Site) -> Intervention {
        self.intervention(site)
    }
}

impl WalkControl for MutualSelfAttention {
    fn begin(&mut self, step: StepInfo) {
        self.step = step.index;
    }

    fn reads_source(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attention::BlockPlace;

    fn site(kind: AttentionKind, index: usize) -> Site {
        Site {
            index,
            place: BlockPlace::Up,
            kind,
            level: 1,
            height: 4,
            width: 4,
        }
    }

    #[test]
    fn it_begins_at_a_step_and_a_layer_of_self_attention() {
        let mut control = MutualSelfAttention::new(MasactrlStart { step: 1, layer: 3 });
        let mut acts = |step, kind, index| {
            control.begin(StepInfo {
                index: step,
                ..StepInfo::default()
            });
            control.intervention(&site(kind, index)) == Intervention::FirstRowsKeysValues
        };
        let (own, cross) = (AttentionKind::SelfAttention, AttentionKind::CrossAttention);
        assert_eq!([acts(0, own, 3), acts(1, own, 2)], [false; 2]);
        assert_eq!([acts(1, own, 3), acts(3, own, 9)], [true; 2]);
        assert!(!acts(1, cross, 3));
    }

    #[test]
    fn the_usual_start_is_the_published_one() {
        let of = |steps, layers| MasactrlStart::usual(steps, layers).to_string();
        assert_eq!([of(4, 16), of(3, 16), of(4, 70)], ["1:10", "1:10", "1:44"]);
        assert_eq!([of(50, 16), of(20, 16)], ["4:10", "2:10"]);
        let read = |text: &str| text.parse::<MasactrlStart>();
        assert_eq!(read("1:10").unwrap(), MasactrlStart::usual(4, 16));
        for text in ["", "1", ":", "1:", "-1:2", "1:2:3", "1.0:2"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_start_behind_the_end_is_refused() {
        let check = |step, layer| MasactrlStart { step, layer }.check(4, 16);
        assert!(check(3, 15).is_ok());
        for (step, layer) in [(4, 0), (0, 16)] {
            let told = check(step, layer).unwrap_err().to_string();
            assert!(
                told.contains("0 to 3") && told.contains("0 to 15"),
                "{told}"
            );
        }
    }
}
