//! Guidance strength as a function of the timestep (iCD, section 4.3).
//!
//! The strength w follows the networks' input: w = 0 is unguided (w = 1 in the
//! paper). The scale of classifier-free guidance is w + 1, as everywhere: 1 is unguided.

use std::{fmt, str::FromStr};

use crate::{
    error::{Error, Result, Setting},
    schedule::{Timestep, Timesteps},
};

/// More than twice the largest strength that networks are trained with.
const MOST: f64 = 50.0;

/// The guidance of one row of a batch, over the timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    strength: f64,
    tau: Tau,
    /// The strength without any effect: 0 of the networks' input, 1 of classifier-free guidance.
    unguided: f64,
}

impl Guidance {
    /// No guidance at any timestep.
    pub const NONE: Self = Self {
        strength: 0.0,
        tau: Tau::CONSTANT,
        unguided: 0.0,
    };

    /// The usual scale of classifier-free guidance.
    pub const USUAL_SCALE: f64 = 7.5;

    /// Creates guidance of `strength` (0 or more, finite in f32) that `tau` switches off near
    /// the noise.
    pub fn new(strength: f64, tau: Tau) -> Result<Self> {
        if !(strength as f32).is_finite() || strength < 0.0 {
            let reason = format!(
                "{strength:?}: it must be 0 (none) or more; 19 is usual for SD1.5, 7 for SDXL"
            );
            return Err(Error::of(Setting::Guidance, reason));
        }
        Ok(Self {
            strength,
            tau,
            unguided: 0.0,
        })
    }

    /// Creates classifier-free guidance of a `scale` (0 or more, finite in f32), 1 where `tau`
    /// switches it off.
    pub fn classifier_free(scale: f64, tau: Tau) -> Result<Self> {
        if !(scale as f32).is_finite() || scale < 0.0 {
            let reason = format!("{scale:?}: it must be 1 (none) or more; 7.5 is usual");
            return Err(Error::of(Setting::Guidance, reason));
        }
        Ok(Self {
            strength: scale,
            tau,
            unguided: 1.0,
        })
    }

    /// The strength at timestep `t`, or the scale if it is classifier-free.
    pub fn at(&self, t: Timestep) -> f64 {
        match self.unguided {
            0.0 => self.strength * self.tau.share(t),
            none => none + (self.strength - none) * self.tau.share(t),
        }
    }

    /// The strength w at timestep `t`, 0 where there is no guidance.
    pub fn strength_at(&self, t: Timestep) -> f64 {
        self.at(t) - self.unguided
    }

    /// The same guidance without any effect.
    #[must_use]
    pub fn switched_off(self) -> Self {
        Self {
            strength: self.unguided,
            ..self
        }
    }

    /// The timesteps with guidance.
    pub fn tau(&self) -> Tau {
        self.tau
    }

    /// Whether the strength is beyond any that networks are trained with: they take it as an
    /// input, and have seen none above 20.
    pub fn is_extreme(&self) -> bool {
        self.strength > MOST
    }

    /// The full strength, or the scale if it is classifier-free.
    pub fn strength(&self) -> f64 {
        self.strength
    }
}

/// Dynamic guidance: full up to `full_until`, none from `none_from` on, linear in
/// between, both as fractions of the diffusion (0 to 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tau {
    full_until: f64,
    none_from: f64,
}

impl Tau {
    /// Guidance that is never switched off.
    pub const CONSTANT: Self = Self {
        full_until: 1.0,
        none_from: 1.0,
    };

    /// The step of the paper: guided up to `tau`, unguided beyond.
    pub fn step(tau: f64) -> Result<Self> {
        Self::ramp(tau, tau)
    }

    /// A linear decrease between two fractions.
    pub fn ramp(full_until: f64, none_from: f64) -> Result<Self> {
        let tau = Self {
            full_until,
            none_from,
        };
        if (0.0..=1.0).contains(&full_until) && (full_until..=1.0).contains(&none_from) {
            return Ok(tau);
        }
        let ends = match full_until.total_cmp(&none_from).is_eq() {
            true => format!("{full_until:?}"),
            false => format!("{full_until:?}..{none_from:?}"),
        };
        Err(Error::setting(format!(
            "tau {ends}: it must be from 0 to 1, the smaller end of a ramp first"
        )))
    }

    /// The default for edits with these reverse timesteps, guided in all steps but the
    /// first: 0.8 for 999, 779, .. and 0.7 for 999, 699, ..
    pub fn usual_for(timesteps: &Timesteps) -> Self {
        match timesteps.as_slice()[1].fraction() {
            0.0 => Self::CONSTANT,
            second => Self::step((second * 10.0).ceil() / 10.0).unwrap_or(Self::CONSTANT),
        }
    }

    /// The fraction of the strength at `t`, 0 to 1.
    fn share(self, t: Timestep) -> f64 {
        match t.fraction() {
            t if t <= self.full_until => 1.0,
            t if t >= self.none_from => 0.0,
            t => (self.none_from - t) / (self.none_from - self.full_until),
        }
    }

    /// Whether `t` is beyond full guidance: the first steps of the reverse process, in
    /// which an early prompt replaces the row's own.
    pub fn is_early(self, t: Timestep) -> bool {
        f64::from(t.0) > self.full_until * 1000.0
    }
}

impl FromStr for Tau {
    type Err = Error;

    /// Parses `0.8` (a step) or `0.7..0.9` (a ramp).
    fn from_str(text: &str) -> Result<Self> {
        let number = |s: &str| {
            s.trim().parse::<f64>().map_err(|_| {
                Error::setting(format!(
                    "tau {text:?}: write a fraction such as 0.8, or a ramp such as 0.7..0.9"
                ))
            })
        };
        match text.split_once("..") {
            Some((from, to)) => Self::ramp(number(from)?, number(to)?),
            None => Self::step(number(text)?),
        }
    }
}

impl fmt::Display for Tau {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.full_until < self.none_from {
            true => write!(f, "{}..{}", self.full_until, self.none_from),
            false => write!(f, "{}", self.full_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(strength: f64, tau: &str, t: u16) -> f64 {
        Guidance::new(strength, tau.parse().unwrap())
            .unwrap()
            .at(Timestep(t))
    }

    #[test]
    fn a_step_guides_up_to_tau_and_not_past_it() {
        assert_eq!(
            [0, 779, 800, 801, 999].map(|t| at(19.0, "0.8", t)),
            [19.0, 19.0, 19.0, 0.0, 0.0]
        );
        assert_eq!([699, 700, 779].map(|t| at(7.0, "0.7", t)), [7.0, 7.0, 0.0]);
    }

    #[test]
    fn tau_one_is_constant_guidance() {
        assert_eq!([0, 500, 999].map(|t| at(7.0, "1", t)), [7.0; 3]);
    }

    #[test]
    fn a_ramp_falls_linearly() {
        let values = [259, 300, 600, 750, 900, 999].map(|t| at(12.0, "0.3..0.9", t));
        let expected = [12.0, 12.0, 6.0, 3.0, 0.0, 0.0];
        assert!(
            values
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{values:?}"
        );
    }

    #[test]
    fn the_usual_step_leaves_the_first_jump_unguided() {
        let usual = |steps: &[u16]| Tau::usual_for(&Timesteps::reverse(steps).unwrap()).to_string();
        assert_eq!(usual(&[999, 779, 519, 259, 0]), "0.8");
        assert_eq!(usual(&[999, 699, 499, 249, 0]), "0.7");
        assert_eq!(usual(&[999, 699, 339, 0]), "0.7");
        assert_eq!(usual(&[999, 0]), "1");
    }

    #[test]
    fn impossible_guidance_is_refused() {
        for tau in ["", "x", "1.5", "-0.1", "0.9..0.7", "0.2..1.2", "NaN"] {
            assert!(tau.parse::<Tau>().is_err(), "{tau:?}");
        }
        for strength in [-1.0, f64::NAN, f64::INFINITY, 1e39] {
            assert!(Guidance::new(strength, Tau::CONSTANT).is_err());
        }
    }

    #[test]
    fn classifier_free_guidance_is_off_at_a_scale_of_one() {
        let at = |scale, tau: &str, t| {
            let tau = tau.parse().unwrap();
            let guidance = Guidance::classifier_free(scale, tau).unwrap();
            (guidance.at(Timestep(t)), guidance.strength_at(Timestep(t)))
        };
        assert_eq!(at(7.5, "0.8", 779), (7.5, 6.5));
        assert_eq!(at(7.5, "0.8", 999), (1.0, 0.0));
        assert_eq!(at(7.5, "0.2..0.8", 500), (4.25, 3.25));
        assert_eq!(at(0.0, "1", 1), (0.0, -1.0));
        for scale in [-1.0, f64::NAN, f64::INFINITY, 1e39] {
            assert!(Guidance::classifier_free(scale, Tau::CONSTANT).is_err());
        }
    }

    #[test]
    fn guidance_beyond_training_is_extreme() {
        let is_extreme = |w| Guidance::new(w, Tau::CONSTANT).unwrap().is_extreme();
        assert_eq!([0.0, 19.0, 50.0].map(is_extreme), [false; 3]);
        assert_eq!([50.1, 1e30].map(is_extreme), [true; 2]);
    }
}
