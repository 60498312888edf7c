//! The timesteps of DDIM (arXiv 2010.02502) in a number of steps.

use std::{fmt, str::FromStr};

use super::{TIMESTEPS, Timestep, Timesteps};
use crate::error::{Error, Result};

/// The offset of all timesteps (diffusers' `steps_offset`).
const OFFSET: u16 = 1;
/// The steps of the authors of prompt-to-prompt and of the inversions compared with it.
const USUAL: u16 = 50;

/// A number of DDIM steps, 1 to 999.
///
/// Their timesteps are those of Stable Diffusion's scheduler, as prompt-to-prompt and null-text
/// inversion use it: `timestep_spacing` leading with `steps_offset` 1, for 50 steps 981, 961,
/// .., 21, 1. The step from 1 ends in the clean latent, written as timestep 0. A number that
/// does not divide 1000 starts further from pure noise, as in diffusers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DdimSteps(u16);

impl DdimSteps {
    /// So many steps.
    pub fn new(count: usize) -> Result<Self> {
        match u16::try_from(count) {
            Ok(steps) if (1..TIMESTEPS).contains(&count) => Ok(Self(steps)),
            _ => Err(Error::setting(format!(
                "{count}: the number of steps is from 1 to {}",
                TIMESTEPS - 1
            ))),
        }
    }

    /// The number.
    pub fn count(self) -> usize {
        self.0.into()
    }

    /// From noise to the clean latent: 981, 961, .., 1, 0.
    pub fn reverse(self) -> Timesteps {
        let mut timesteps = self.ascending();
        timesteps.reverse();
        Timesteps(timesteps)
    }

    /// From the clean latent to noise: 0, 1, 21, .., 981.
    pub fn forward(self) -> Timesteps {
        Timesteps(self.ascending())
    }

    fn ascending(self) -> Vec<Timestep> {
        let stride = TIMESTEPS as u16 / self.0;
        let noised = (0..self.0).map(|step| Timestep(OFFSET + step * stride));
        [Timestep(0)].into_iter().chain(noised).collect()
    }
}

impl Default for DdimSteps {
    /// The 50 of the field.
    fn default() -> Self {
        Self(USUAL)
    }
}

impl fmt::Display for DdimSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DdimSteps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let count = text.trim().parse::<usize>();
        let reason = |_| Error::setting(format!("{text:?}: write a number as in {USUAL}"));
        Self::new(count.map_err(reason)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reverse(count: usize) -> Vec<u16> {
        let timesteps = DdimSteps::new(count).unwrap().reverse();
        timesteps.as_slice().iter().map(|t| t.0).collect()
    }

    /// diffusers.DDIMScheduler(steps_offset=1).set_timesteps(n).timesteps, then 0.
    #[test]
    fn timesteps_are_those_of_diffusers() {
        let usual = reverse(50);
        assert_eq!(usual[..3], [981, 961, 941]);
        assert_eq!(usual[48..], [21, 1, 0]);
        assert_eq!(reverse(3), [667, 334, 1, 0]);
        assert_eq!(reverse(1), [1, 0]);
        assert_eq!(reverse(999)[..2], [999, 998]);
    }

    #[test]
    fn inversions_go_the_same_way_back() {
        for count in [1, 7, 50, 999] {
            let steps = DdimSteps::new(count).unwrap();
            let mut forward = steps.forward().as_slice().to_vec();
            assert!(steps.forward().ascending().is_ok() && steps.forward().count() == count);
            forward.reverse();
            assert_eq!(forward, steps.reverse().as_slice());
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for text in ["", "0", "-1", "1000", "1.5", "x", "99999999999999999999"] {
            assert!(text.parse::<DdimSteps>().is_err(), "{text:?}");
        }
        assert_eq!("50".parse::<DdimSteps>().unwrap(), DdimSteps::default());
    }
}
