//! The noise schedule, and the one formula of the method: the jump.
//!
//! Inversion, generation, editing, the teacher's DDIM step and both training
//! losses all move a latent from timestep t to timestep s along the
//! probability-flow ODE (iCD, arXiv 2406.14539, equation 3; DDIM, arXiv
//! 2010.02502, equation 12).

use std::{fmt, str::FromStr};

use candle_core::Tensor;

use crate::error::{Error, Result};

/// Number of timesteps the networks were trained on.
pub const TIMESTEPS: usize = 1000;

/// A moment of the diffusion, 0 (clean) to 999 (noise).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestep(pub u16);

impl Timestep {
    /// The timestep as a share of the whole diffusion, 0 to 0.999.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / TIMESTEPS as f64
    }
}

impl fmt::Display for Timestep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One jump of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the network is evaluated.
    pub from: Timestep,
    /// Where the jump lands.
    pub to: Timestep,
}

/// The timesteps a consistency model was distilled to visit, in order.
///
/// A forward path climbs (19, 259, 519, 779, 999), a reverse one descends
/// (999, 779, 519, 259, 0). They are not mirror images: encoding starts from a
/// latent that is already noised to its first timestep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Timestep>);

impl Path {
    /// A path that climbs from its first timestep to its last.
    pub fn forward(steps: &[u16]) -> Result<Self> {
        Self::monotonic(steps, "forward", "climb", |a, b| a < b)
    }

    /// A path that descends from its first timestep to its last.
    pub fn reverse(steps: &[u16]) -> Result<Self> {
        Self::monotonic(steps, "reverse", "descend", |a, b| a > b)
    }

    fn monotonic(
        steps: &[u16],
        name: &str,
        verb: &str,
        ordered: fn(u16, u16) -> bool,
    ) -> Result<Self> {
        let path = Self(steps.iter().copied().map(Timestep).collect());
        if let Some(step) = steps.iter().find(|&&step| usize::from(step) >= TIMESTEPS) {
            return Err(Error::setting(format!(
                "{name} path {path}: {step} is past 999"
            )));
        }
        if steps.len() < 2 || !steps.windows(2).all(|pair| ordered(pair[0], pair[1])) {
            let reason =
                format!("{name} path {path}: it must {verb} through at least two timesteps");
            return Err(Error::setting(reason));
        }
        Ok(path)
    }

    /// Where the walk begins.
    pub fn start(&self) -> Timestep {
        *self.0.first().expect("a path has at least two timesteps")
    }

    /// Where the walk ends.
    pub fn end(&self) -> Timestep {
        *self.0.last().expect("a path has at least two timesteps")
    }

    /// Number of jumps, which is the number of network evaluations.
    pub fn jumps(&self) -> usize {
        self.0.len() - 1
    }

    /// The jumps in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.0.windows(2).map(|pair| Segment {
            from: pair[0],
            to: pair[1],
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_commas(&self.0))
    }
}

fn with_commas<Step: ToString>(steps: &[Step]) -> String {
    let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
    steps.join(",")
}

/// Timesteps written with commas, in the order of the walk; see [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps(pub Vec<u16>);

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_commas(&self.0))
    }
}

impl FromStr for Steps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let steps: std::result::Result<_, _> = text.split(',').map(|s| s.trim().parse()).collect();
        steps.map(Self).map_err(|_| {
            Error::setting(format!(
                "path {text:?}: timesteps are numbers from 0 to 999 with commas between, \
                 as in 999,779,519,259,0"
            ))
        })
    }
}

/// The signal and noise levels at each timestep: `x_t = a_t x_0 + s_t noise`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The product of 1 - beta up to each timestep.
    alpha_bar: Vec<f32>,
}

impl Schedule {
    /// The `scaled_linear` betas of Stable Diffusion: evenly spaced square
    /// roots between those of `beta_start` and `beta_end`, squared.
    pub fn scaled_linear(beta_start: f64, beta_end: f64) -> Self {
        let (start, end) = (beta_start.sqrt() as f32, beta_end.sqrt() as f32);
        let step = (end - start) / (TIMESTEPS - 1) as f32;
        // Evenly spaced from both ends, in f32, as PyTorch's linspace is.
        let root = |i: usize| match i < TIMESTEPS / 2 {
            true => start + step * i as f32,
            false => end - step * (TIMESTEPS - 1 - i) as f32,
        };
        let mut product = 1f64;
        let alpha_bar = (0..TIMESTEPS).map(|i| {
            product *= f64::from(1.0 - root(i) * root(i));
            product as f32
        });
        Self {
            alpha_bar: alpha_bar.collect(),
        }
    }

    /// The signal level a_t and the noise level s_t. Timestep 0 is the clean
    /// latent itself: a hard boundary (1, 0), as consistency models want it.
    pub fn levels(&self, t: Timestep) -> (f64, f64) {
        match t.0 {
            0 => (1.0, 0.0),
            _ => self.soft_levels(t),
        }
    }

    /// The levels that the betas give, at timestep 0 too: the end of DDIM's
    /// last step, which the teacher of a distillation takes.
    pub fn soft_levels(&self, t: Timestep) -> (f64, f64) {
        let alpha_bar = self.alpha_bar[usize::from(t.0)];
        (
            f64::from(alpha_bar.sqrt()),
            f64::from((1.0 - alpha_bar).sqrt()),
        )
    }

    /// Moves `x` at `segment.from` to `segment.to` along the straight line that
    /// the predicted noise `eps` gives (iCD, equation 3). Any equal shapes.
    pub fn jump(&self, x: &Tensor, eps: &Tensor, segment: Segment) -> Result<Tensor> {
        let (a_t, s_t) = self.levels(segment.from);
        let (a_s, s_s) = self.levels(segment.to);
        let origin = ((x - (eps * s_t)?)? / a_t)?;
        Ok(((origin * a_s)? + (eps * s_s)?)?)
    }

    /// Mixes the clean latent `x` with `noise` to the level of timestep `t`.
    pub fn add_noise(&self, x: &Tensor, noise: &Tensor, t: Timestep) -> Result<Tensor> {
        let (a, s) = self.levels(t);
        Ok(((x * a)? + (noise * s)?)?)
    }
}

impl Default for Schedule {
    /// Stable Diffusion's: betas from 0.00085 to 0.012.
    fn default() -> Self {
        Self::scaled_linear(0.00085, 0.012)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn latent(seed: f32) -> Tensor {
        let values: Vec<f32> = (0..32).map(|i| ((i as f32 + seed) * 1.7).sin()).collect();
        Tensor::from_vec(values, (1, 2, 4, 4), &Device::Cpu).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    #[test]
    fn levels_equal_the_ones_of_diffusers() {
        // DDIMScheduler(beta_start=0.00085, beta_end=0.012,
        // beta_schedule="scaled_linear").alphas_cumprod[[1, 19, 259, 519, 779, 999]]
        let expected = [
            (1, 0.998_296_02),
            (19, 0.982_243_96),
            (259, 0.658_975_24),
            (519, 0.251_577_53),
            (779, 0.044_200_413),
            (999, 0.004_660_095),
        ];
        let schedule = Schedule::default();
        for (t, alpha_bar) in expected {
            let (a, s) = schedule.levels(Timestep(t));
            assert!((a * a - alpha_bar).abs() < 3e-7, "a at {t}: {}", a * a);
            assert!((s * s - (1.0 - alpha_bar)).abs() < 3e-7, "s at {t}");
        }
    }

    #[test]
    fn a_jump_and_its_inverse_cancel() {
        let (x, eps, schedule) = (latent(0.0), latent(9.0), Schedule::default());
        let there = Segment {
            from: Timestep(259),
            to: Timestep(779),
        };
        let back = Segment {
            from: Timestep(779),
            to: Timestep(259),
        };
        let y = schedule.jump(&x, &eps, there).unwrap();
        assert!(distance(&schedule.jump(&y, &eps, back).unwrap(), &x) < 1e-5);
    }

    #[test]
    fn a_path_under_constant_noise_equals_one_jump() {
        let (x, eps, schedule) = (latent(0.0), latent(9.0), Schedule::default());
        let path = Path::reverse(&[999, 779, 519, 259, 0]).unwrap();
        let walked = path
            .segments()
            .fold(x.clone(), |x, s| schedule.jump(&x, &eps, s).unwrap());
        let whole = Segment {
            from: path.start(),
            to: path.end(),
        };
        assert!(distance(&walked, &schedule.jump(&x, &eps, whole).unwrap()) < 1e-4);
    }

    #[test]
    fn landing_on_zero_is_the_clean_latent() {
        let (x, noise, schedule) = (latent(0.0), latent(9.0), Schedule::default());
        let noised = schedule.add_noise(&x, &noise, Timestep(519)).unwrap();
        let home = Segment {
            from: Timestep(519),
            to: Timestep(0),
        };
        assert!(distance(&schedule.jump(&noised, &noise, home).unwrap(), &x) < 1e-6);
    }

    #[test]
    fn paths_that_turn_back_or_leave_the_schedule_are_refused() {
        for steps in [&[19, 19][..], &[19, 259, 200], &[19], &[], &[19, 1000]] {
            assert!(Path::forward(steps).is_err(), "{steps:?}");
        }
        for steps in [&[999, 0, 259][..], &[0, 999], &[0], &[1200, 0]] {
            assert!(Path::reverse(steps).is_err(), "{steps:?}");
        }
        assert_eq!(Path::reverse(&[999, 339, 0]).unwrap().jumps(), 2);
    }

    #[test]
    fn steps_are_read_with_commas() {
        assert_eq!("19, 259,999".parse::<Steps>().unwrap().0, [19, 259, 999]);
        for bad in ["", "19,,259", "a", "-1,3", "70000"] {
            assert!(bad.parse::<Steps>().is_err(), "{bad:?}");
        }
    }
}
