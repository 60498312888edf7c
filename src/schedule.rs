//! Timesteps, the noise schedule and the DDIM step (here: jump).
//!
//! Inversion, generation, editing, the teacher's DDIM step and both training
//! losses all move a latent from timestep t to timestep s along the
//! probability-flow ODE (iCD, arXiv 2406.14539, equation 3; DDIM, arXiv
//! 2010.02502, equation 12).

use std::{f64::consts::PI, fmt, str::FromStr};

use candle_core::Tensor;

use crate::error::{Error, Result, Setting};

/// Number of timesteps the networks were trained on.
pub const TIMESTEPS: usize = 1000;

/// A timestep of the diffusion, 0 (clean) to 999 (noise).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestep(pub u16);

impl Timestep {
    /// The timestep as a fraction of the whole diffusion, 0 to 0.999.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / TIMESTEPS as f64
    }
}

impl fmt::Display for Timestep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One step of a sampler, of any length and in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The timestep at which the network is evaluated.
    pub from: Timestep,
    /// The timestep of the result.
    pub to: Timestep,
}

/// The timesteps of a sampling loop, in order: those that a consistency model was
/// distilled on, or any of DDIM.
///
/// Those of the forward process (inversion) ascend (19, 259, 519, 779, 999), those of the
/// reverse process descend (999, 779, 519, 259, 0). They are not mirror images: inversion
/// starts from a latent that already has the noise of its first timestep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timesteps(Vec<Timestep>);

impl Timesteps {
    /// Creates a list of at least two timesteps from 0 to 999, in strictly ascending or
    /// descending order.
    pub fn new(timesteps: &[u16]) -> Result<Self> {
        let list = Self(timesteps.iter().copied().map(Timestep).collect());
        let reason = if let Some(t) = timesteps.iter().find(|&&t| usize::from(t) >= TIMESTEPS) {
            format!("{t} is greater than {}", TIMESTEPS - 1)
        } else if timesteps.len() < 2 {
            "at least two are needed".into()
        } else if timesteps.is_sorted_by(|a, b| a < b) || timesteps.is_sorted_by(|a, b| a > b) {
            return Ok(list);
        } else {
            "they must be in strictly ascending or descending order".into()
        };
        Err(Error::setting(format!("timesteps {list}: {reason}")))
    }

    /// Creates a list that ascends from the picture to noise.
    pub fn forward(timesteps: &[u16]) -> Result<Self> {
        Self::new(timesteps)?.ascending()
    }

    /// Creates a list that descends from noise to the picture.
    pub fn reverse(timesteps: &[u16]) -> Result<Self> {
        Self::new(timesteps)?.descending()
    }

    /// Returns an error unless the timesteps ascend, as inversion needs.
    pub fn ascending(self) -> Result<Self> {
        let reason = format!("{self} must be in ascending order, from the picture to noise");
        match self.start() < self.end() {
            true => Ok(self),
            false => Err(Error::of(Setting::ForwardTimesteps, reason)),
        }
    }

    /// Returns an error unless the timesteps descend, as sampling needs.
    pub fn descending(self) -> Result<Self> {
        let reason = format!("{self} must be in descending order, from noise to the picture");
        match self.start() > self.end() {
            true => Ok(self),
            false => Err(Error::of(Setting::ReverseTimesteps, reason)),
        }
    }

    /// All timesteps.
    pub fn as_slice(&self) -> &[Timestep] {
        &self.0
    }

    /// The first timestep.
    pub fn start(&self) -> Timestep {
        *self.0.first().expect("there are at least two timesteps")
    }

    /// The last timestep.
    pub fn end(&self) -> Timestep {
        *self.0.last().expect("there are at least two timesteps")
    }

    /// Number of jumps, which is the number of steps.
    pub fn count(&self) -> usize {
        self.0.len() - 1
    }

    /// The jumps in order.
    pub fn jumps(&self) -> impl Iterator<Item = Jump> + '_ {
        self.0.windows(2).map(|pair| Jump {
            from: pair[0],
            to: pair[1],
        })
    }
}

impl fmt::Display for Timesteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timesteps: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&timesteps.join(","))
    }
}

impl FromStr for Timesteps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let timesteps = text.split(',').map(|t| t.trim().parse());
        let timesteps: Result<Vec<_>, _> = timesteps.collect();
        let timesteps = timesteps.map_err(|_| {
            Error::setting(format!(
                "timesteps {text:?}: write numbers from 0 to 999 separated by commas, \
                 as in 999,779,519,259,0"
            ))
        })?;
        Self::new(&timesteps)
    }
}

/// The signal and noise levels at each timestep: `x_t = alpha_t x_0 + sigma_t noise`.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    /// The product of 1 - beta up to each timestep (diffusers' `alphas_cumprod`).
    alphas_cumprod: Vec<f32>,
}

impl NoiseSchedule {
    /// Creates the schedule of betas, one for each timestep, from 0 to below 1.
    pub fn from_betas(betas: &[f32]) -> Result<Self> {
        let fault = |reason: String| Err(Error::setting(reason));
        if betas.len() != TIMESTEPS {
            return fault(format!("{} betas for {TIMESTEPS} timesteps", betas.len()));
        }
        if let Some(beta) = betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return fault(format!("a beta is {beta}, but must be from 0 to below 1"));
        }
        let mut product = 1f64;
        let alphas_cumprod = betas.iter().map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        });
        let alphas_cumprod: Vec<_> = alphas_cumprod.collect();
        match alphas_cumprod.last().is_some_and(|last| last.is_normal()) {
            true => Ok(Self { alphas_cumprod }),
            false => fault("the betas leave no signal at the last timestep".into()),
        }
    }

    /// Creates the `scaled_linear` schedule of Stable Diffusion: the square roots of
    /// the betas are evenly spaced from that of `beta_start` to that of `beta_end`.
    pub fn scaled_linear(beta_start: f64, beta_end: f64) -> Result<Self> {
        let mut betas = linspace(beta_start.sqrt(), beta_end.sqrt());
        betas.iter_mut().for_each(|root| *root *= *root);
        Self::from_betas(&betas)
    }

    /// Creates the `linear` schedule of DDPM (arXiv 2006.11239): the betas are evenly spaced.
    pub fn linear(beta_start: f64, beta_end: f64) -> Result<Self> {
        Self::from_betas(&linspace(beta_start, beta_end))
    }

    /// Creates the cosine schedule (`squaredcos_cap_v2`; arXiv 2102.09672).
    pub fn cosine() -> Result<Self> {
        let alpha_bar = |t: usize| {
            let t = t as f64 / TIMESTEPS as f64;
            ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2)
        };
        let beta = |t| (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(0.999) as f32;
        Self::from_betas(&(0..TIMESTEPS).map(beta).collect::<Vec<_>>())
    }

    /// The signal level alpha_t and the noise level sigma_t. Those of timestep 0 are
    /// (1, 0), the clean latent: the boundary condition of consistency models.
    pub fn alpha_sigma(&self, t: Timestep) -> (f64, f64) {
        match t.0 {
            0 => (1.0, 0.0),
            _ => self.alpha_sigma_unclamped(t),
        }
    }

    /// The levels given by the betas, also at timestep 0: the end of the last DDIM step
    /// of a distillation's teacher (diffusers' `set_alpha_to_one=False`).
    pub fn alpha_sigma_unclamped(&self, t: Timestep) -> (f64, f64) {
        let alpha_cumprod = self.alphas_cumprod[usize::from(t.0)];
        (
            f64::from(alpha_cumprod.sqrt()),
            f64::from((1.0 - alpha_cumprod).sqrt()),
        )
    }

    /// Moves `x` from `jump.from` to `jump.to` with the predicted noise `eps` of the
    /// same shape (iCD, equation 3).
    pub fn jump(&self, x: &Tensor, eps: &Tensor, jump: Jump) -> Result<Tensor> {
        let (alpha, sigma) = self.alpha_sigma(jump.from);
        let origin = ((x - (eps * sigma)?)? / alpha)?;
        self.add_noise(&origin, eps, jump.to)
    }

    /// Adds `noise` to the clean latent `x` at the level of timestep `t`.
    pub fn add_noise(&self, x: &Tensor, noise: &Tensor, t: Timestep) -> Result<Tensor> {
        let (alpha, sigma) = self.alpha_sigma(t);
        Ok(((x * alpha)? + (noise * sigma)?)?)
    }
}

/// Evenly spaced from both ends, in f32, as PyTorch's linspace is.
fn linspace(start: f64, end: f64) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (TIMESTEPS - 1) as f32;
    let value = |i: usize| match i < TIMESTEPS / 2 {
        true => start + step * i as f32,
        false => end - step * (TIMESTEPS - 1 - i) as f32,
    };
    (0..TIMESTEPS).map(value).collect()
}

impl Default for NoiseSchedule {
    /// The schedule of Stable Diffusion: betas from 0.00085 to 0.012.
    fn default() -> Self {
        Self::scaled_linear(0.00085, 0.012).expect("betas below 1")
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
        let schedule = NoiseSchedule::default();
        for (t, alpha_cumprod) in expected {
            let (alpha, sigma) = schedule.alpha_sigma(Timestep(t));
            assert!(
                (alpha * alpha - alpha_cumprod).abs() < 3e-7,
                "alpha at {t}: {alpha}"
            );
            assert!(
                (sigma * sigma - (1.0 - alpha_cumprod)).abs() < 3e-7,
                "sigma at {t}"
            );
        }
    }

    #[test]
    fn other_schedules_equal_those_of_diffusers() {
        // DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear" or
        // "squaredcos_cap_v2").alphas_cumprod[[0, 1, 499, 998, 999]]
        let linear = NoiseSchedule::linear(0.0001, 0.02).unwrap();
        let cosine = NoiseSchedule::cosine().unwrap();
        for (schedule, expected) in [
            (
                linear,
                [
                    9.999000e-01,
                    9.997801e-01,
                    7.858723e-02,
                    4.118194e-05,
                    4.035830e-05,
                ],
            ),
            (
                cosine,
                [
                    9.999587e-01,
                    9.999126e-01,
                    4.938435e-01,
                    2.428766e-06,
                    2.428735e-09,
                ],
            ),
        ] {
            for (t, alpha) in [0, 1, 499, 998, 999].into_iter().zip(expected) {
                let found = f64::from(schedule.alphas_cumprod[t]);
                assert!((found / alpha - 1.0).abs() < 2e-5, "{t}: {found} {alpha}");
            }
        }
    }

    #[test]
    fn betas_that_are_no_schedule_are_errors() {
        let with = |beta: f32| {
            let mut betas = [1e-4; TIMESTEPS];
            betas[500] = beta;
            NoiseSchedule::from_betas(&betas)
        };
        assert!(with(0.0).is_ok());
        for beta in [1.0, -1e-4, f32::NAN, f32::INFINITY] {
            assert!(with(beta).is_err(), "{beta}");
        }
        assert!(NoiseSchedule::from_betas(&[1e-4; 999]).is_err());
        assert!(NoiseSchedule::from_betas(&[0.9; TIMESTEPS]).is_err());
    }

    #[test]
    fn a_jump_and_its_inverse_cancel() {
        let (x, eps, schedule) = (latent(0.0), latent(9.0), NoiseSchedule::default());
        let there = Jump {
            from: Timestep(259),
            to: Timestep(779),
        };
        let back = Jump {
            from: Timestep(779),
            to: Timestep(259),
        };
        let y = schedule.jump(&x, &eps, there).unwrap();
        assert!(distance(&schedule.jump(&y, &eps, back).unwrap(), &x) < 1e-5);
    }

    #[test]
    fn a_path_under_constant_noise_equals_one_jump() {
        let (x, eps, schedule) = (latent(0.0), latent(9.0), NoiseSchedule::default());
        let path = Timesteps::reverse(&[999, 779, 519, 259, 0]).unwrap();
        let walked = path
            .jumps()
            .fold(x.clone(), |x, s| schedule.jump(&x, &eps, s).unwrap());
        let whole = Jump {
            from: path.start(),
            to: path.end(),
        };
        assert!(distance(&walked, &schedule.jump(&x, &eps, whole).unwrap()) < 1e-4);
    }

    #[test]
    fn landing_on_zero_is_the_clean_latent() {
        let (x, noise, schedule) = (latent(0.0), latent(9.0), NoiseSchedule::default());
        let noised = schedule.add_noise(&x, &noise, Timestep(519)).unwrap();
        let home = Jump {
            from: Timestep(519),
            to: Timestep(0),
        };
        assert!(distance(&schedule.jump(&noised, &noise, home).unwrap(), &x) < 1e-6);
    }

    #[test]
    fn unordered_or_excessive_timesteps_are_errors() {
        for steps in [&[19, 19][..], &[19, 259, 200], &[19], &[], &[19, 1000]] {
            assert!(Timesteps::forward(steps).is_err(), "{steps:?}");
        }
        for steps in [&[999, 0, 259][..], &[0, 999], &[0], &[1200, 0]] {
            assert!(Timesteps::reverse(steps).is_err(), "{steps:?}");
        }
        assert_eq!(Timesteps::reverse(&[999, 339, 0]).unwrap().count(), 2);
    }

    #[test]
    fn steps_are_read_with_commas() {
        assert_eq!(
            "19, 259,999".parse::<Timesteps>().unwrap(),
            Timesteps::forward(&[19, 259, 999]).unwrap()
        );
        for bad in ["", "19,,259", "a", "-1,3", "70000"] {
            assert!(bad.parse::<Timesteps>().is_err(), "{bad:?}");
        }
    }
}
